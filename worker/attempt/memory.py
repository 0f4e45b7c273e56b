"""Memory: whether a job that is known to need more than is free must wait, and whether the kernel has killed for it."""

from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from atft.memory import free_and_total, own_cgroup
from jobs.record import queries, transitions
from jobs.states import Reason

WAIT_SECONDS: Final = 15.0


def postpone_for_memory(session: Session, job_id: UUID) -> bool:
    """Put the job off when it takes more memory than is free here now; one that could never fit is let through, for its
    own preflight to refuse it.
    """
    needed = queries.memory_needed(session, job_id)
    free, total = free_and_total()
    if needed is None or not free < needed <= total:
        return False
    message = f"waits for memory: it needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    return transitions.postpone(session, job_id, WAIT_SECONDS, Reason.OOM_HOST, message)


def count_oom_kills() -> int:
    """Processes killed so far, in our cgroup where that can be read (v2), else on the whole machine; 0 elsewhere.

    Two readings around a child's life that differ say that its SIGKILL was very likely the kernel's.
    """
    events = own_cgroup() / "memory.events"  # the machine's counter moves for our neighbours too
    return _read_counter(events if events.is_file() else Path("/proc/vmstat"))


def _read_counter(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
