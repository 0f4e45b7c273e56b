"""Starts, says so, works, and hangs without another word; `--litter` leaves a temporary file."""

import faulthandler
import signal
import tempfile
import time

from speech import Speech

faulthandler.register(signal.SIGUSR1, all_threads=True)


def hang() -> None:
    time.sleep(600)


speech = Speech()
speech.start()
speech.progress()
if "--litter" in speech.rest:
    tempfile.mkstemp()
hang()
