"""The states of a job and the allowed transitions (`NEXT`). Only `jobs.record` changes a state, by an UPDATE that
checks `NEXT`.
"""

from enum import StrEnum
from typing import Final

from atft.spec.kinds import JobKind, kinds_where
from atft.spec.reason import Reason

__all__ = [
    "ACTIVE", "BUILDING", "COORDINATING", "NEXT", "TERMINAL", "JobKind", "JobState", "Reason", "Wanted", "sources_of",
]  # fmt: skip


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PRUNED = "pruned"


class Wanted(StrEnum):
    """The desired state of a job, as last requested; the worker that runs it acts on it."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"
    PRUNE = "prune"


TERMINAL: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.PRUNED})
ACTIVE: Final = frozenset(JobState) - TERMINAL
COORDINATING: Final = kinds_where(lambda kind: kind.coordinating)
BUILDING: Final = kinds_where(lambda kind: kind.builds)

NEXT: Final[dict[JobState, frozenset[JobState]]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED, JobState.FAILED}),
    JobState.RUNNING: frozenset(
        {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.PRUNED, JobState.QUEUED, JobState.PAUSED}
    ),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    **dict.fromkeys(TERMINAL, frozenset()),
}


def sources_of(to: JobState) -> list[JobState]:
    """The states that have a transition to `to`."""
    return [state for state, targets in NEXT.items() if to in targets]
