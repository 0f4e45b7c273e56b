"""Works on for ever and ignores SIGTERM, as does the grandchild it forked."""

import os
import signal
import sys
import time
from pathlib import Path

from speech import Speech

signal.signal(signal.SIGTERM, signal.SIG_IGN)
speech = Speech()
grandchild = os.fork()
if grandchild == 0:
    time.sleep(600)
    sys.exit(0)
(Path(speech.arguments.out) / "grandchild").write_text(str(grandchild))
speech.start()
while True:
    speech.progress(0.5)
    time.sleep(0.05)
