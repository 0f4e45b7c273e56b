"""Memory checks: postpone a job that needs more than is free, and count the kernel's out-of-memory kills."""

from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from atft.memory import free_and_total, own_cgroup
from jobs.record import queries, transitions
from jobs.states import Reason

WAIT_SECONDS: Final = 15.0


def postpone_for_memory(session: Session, job_id: UUID) -> bool:
    """Postpone the job if it needs more memory than is free now; True if postponed. A job that could never fit is not
    postponed: its own preflight refuses it.
    """
    needed = queries.memory_needed(session, job_id)
    free, total = free_and_total()
    if needed is None or not free < needed <= total:
        return False
    message = f"waits for memory: it needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    return transitions.postpone(session, job_id, WAIT_SECONDS, Reason.OOM_HOST, message)


def count_oom_kills() -> int:
    """Out-of-memory kills so far, in our cgroup (v2) if readable, else on the whole machine; 0 where neither is.

    If it rises during a child's life, the child's SIGKILL very likely came from the kernel.
    """
    events = own_cgroup() / "memory.events"  # the machine's counter moves for our neighbours too
    return _read_counter(events if events.is_file() else Path("/proc/vmstat"))


def _read_counter(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
