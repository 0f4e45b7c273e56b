"""Emits `started` and one progress event, then hangs; `--leave-temporary-file` leaves a temporary file."""

import faulthandler
import signal
import tempfile
import time

from protocol import Protocol

faulthandler.register(signal.SIGUSR1, all_threads=True)


def hang() -> None:
    time.sleep(600)


protocol = Protocol()
protocol.start()
protocol.progress()
if "--leave-temporary-file" in protocol.rest:
    tempfile.mkstemp()
hang()
