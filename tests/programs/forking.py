"""Finishes at once and leaves a grandchild that holds every pipe open."""

import os
import sys
import time
from pathlib import Path

from speech import Speech

speech = Speech()
grandchild = os.fork()
if grandchild == 0:
    time.sleep(600)
    sys.exit(0)
(Path(speech.arguments.out) / "grandchild").write_text(str(grandchild))
speech.start()
speech.say("finished")
