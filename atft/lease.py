"""A child does not outlive its supervisor: it dies with its parent thread, and when its lease is not renewed."""

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from typing import Final

LEASE_OVER: Final = 75
PR_SET_PDEATHSIG: Final = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent thread ends (Linux; elsewhere only the lease does)."""
    parent = os.getppid()
    if sys.platform != "linux":
        return
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before prctl took effect
        os._exit(LEASE_OVER)


def prctl(option: int, value: int) -> None:
    """Set an option of this process (Linux, prctl(2)). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def watch_lease(seconds: float) -> threading.Thread:
    """Start a thread that exits this process, saving nothing, when standard input has had no line for `seconds`: the
    service may have started another attempt by then.
    """
    thread = threading.Thread(target=_watch_lease, args=(seconds,), name="lease", daemon=True)
    thread.start()
    return thread


def _watch_lease(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while select.select([0], [], [], max(0.0, deadline - time.monotonic()))[
        0
    ]:  # a line that arrived while the process slept counts
        data = os.read(0, 65536)
        if not data:  # end of file, no more renewals: use the rest of the lease
            time.sleep(max(0.0, deadline - time.monotonic()))
            break
        if b"\n" in data:
            deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        os.write(2, f"no lease renewal for {seconds:g} s: exiting\n".encode())
    os._exit(LEASE_OVER)
