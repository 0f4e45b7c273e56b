"""The clock of the control worker: Celery's embedded beat, in a process of its own that must not outlive the worker.

The process is spawned with nothing of ours imported; naming the scheduler here is what brings this module into it.
"""

import ctypes
import os
import signal
import sys
from typing import Final

from billiard.process import current_process
from celery import signals
from celery.beat import Scheduler

_PR_SET_PDEATHSIG: Final = 1


class Clock(Scheduler):  # type: ignore[misc] # celery is untyped
    """Keeps no file: a sweep too many does no harm."""


@signals.beat_embedded_init.connect  # type: ignore[untyped-decorator]
def _enter_beat_process(**_: object) -> None:
    die_with_parent()


def die_with_parent() -> None:
    """From a process that Celery spawned: the kernel kills it when its parent is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != current_process()._parent_pid:  # it died before the call above
            os._exit(1)
