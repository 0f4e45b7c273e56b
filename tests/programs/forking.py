"""Finishes at once and leaves a grandchild that holds every pipe open."""

import os
import sys
import time
from pathlib import Path

from protocol import Protocol

protocol = Protocol()
grandchild = os.fork()
if grandchild == 0:
    time.sleep(600)
    sys.exit(0)
(Path(protocol.arguments.out) / "grandchild").write_text(str(grandchild))
protocol.start()
protocol.send("finished")
