"""Memory: whether a job that is known to need more than is free must wait, and whether the kernel has killed for it."""

from pathlib import Path
from typing import Final
from uuid import UUID

import psutil
from sqlalchemy.orm import Session

from jobs import store
from jobs.states import Reason

_CGROUP: Final = Path("/sys/fs/cgroup")
WAIT_SECONDS: Final = 15.0


def postponed(session: Session, job_id: UUID) -> bool:
    """Put the job off when it takes more memory than is free here now; one that could never fit is let through, for its
    own preflight to refuse it.
    """
    needed = store.memory_needed(session, job_id)
    free, total = free_and_total()
    if needed is None or not free < needed <= total:
        return False
    message = f"waits for memory: it needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    return store.postpone(session, job_id, WAIT_SECONDS, Reason.OOM_HOST, message)


def free_and_total() -> tuple[int, int]:
    """Bytes of the machine, or of our cgroup (v2) where that allows less."""
    machine = psutil.virtual_memory()
    group = _own_group()
    try:
        most = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return int(machine.available), int(machine.total)
    return min(int(machine.available), max(0, most - used)), min(int(machine.total), most)


def oom_kills() -> int:
    """Processes killed so far, in our cgroup where that can be read (v2), else on the whole machine; 0 elsewhere.

    Two readings around a child's life that differ say that its SIGKILL was very likely the kernel's.
    """
    events = _own_group() / "memory.events"  # the machine's counter moves for our neighbours too
    return _counter(events if events.is_file() else Path("/proc/vmstat"))


def _own_group() -> Path:
    try:
        line = Path("/proc/self/cgroup").read_text().strip().splitlines()[-1]
    except FileNotFoundError:  # not Linux
        return _CGROUP
    return _CGROUP / line.rpartition(":")[2].lstrip("/")


def _counter(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
