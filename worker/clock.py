"""Celery's embedded beat scheduler of the control worker, in a process of its own that must not outlive the worker.

Celery spawns that process without our modules; naming the scheduler class on the command line imports this one.
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


class BeatScheduler(Scheduler):  # type: ignore[misc] # celery is untyped
    """A beat scheduler that keeps no schedule file: an extra sweep after a restart does no harm."""


@signals.beat_embedded_init.connect  # type: ignore[untyped-decorator]
def _enter_beat_process(**_: object) -> None:
    die_with_parent()


def die_with_parent() -> None:
    """Have the kernel kill this Celery-spawned process when its parent exits (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != current_process()._parent_pid:  # the parent exited before the call above
            os._exit(1)
