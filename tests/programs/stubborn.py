"""Ignores SIGTERM and never ends, like the grandchild that it forks."""

import os
import signal
import sys
import time
from pathlib import Path

from protocol import Protocol

signal.signal(signal.SIGTERM, signal.SIG_IGN)
protocol = Protocol()
grandchild = os.fork()
if grandchild == 0:
    time.sleep(600)
    sys.exit(0)
(Path(protocol.arguments.out) / "grandchild").write_text(str(grandchild))
protocol.start()
while True:
    protocol.progress(0.5)
    time.sleep(0.05)
