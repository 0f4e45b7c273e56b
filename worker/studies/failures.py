"""Errors of an advance: the first is shown in the study's row and log, the next one in a row ends the study with its
words. An outage of Postgres is waited for.
"""

import logging
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import optuna
from sqlalchemy.orm import Session, sessionmaker

from atft.spec.study import HpoSpec
from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.record import history, lifecycle
from jobs.record.transitions import change
from jobs.states import JobState, Reason
from worker.persistence import POSTGRES_UNAVAILABLE
from worker.studies.rows import StudyEnd, StudyRows

MAX_CHARACTERS: Final = 2000  # of an error's text: those of a database hold whole statements
logger = logging.getLogger(__name__)


class RecordedFailures:
    """Writes an error of an advance down in the place of raising it: raised, it would come again with every hint, for
    ever, and reach nobody but the log of a worker.
    """

    def __init__(self, sessions: sessionmaker[Session], job_id: UUID) -> None:
        self._sessions, self._job_id = sessions, job_id
        self.changed: list[UUID] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if is_outage(error):
            logger.warning("study %s: Postgres is unavailable: %s", self._job_id, error)
            return True
        logger.error("study %s: an advance failed", self._job_id, exc_info=error)
        try:
            with transaction(self._sessions) as session:
                self.changed = _record(session, self._job_id, _message_of(error))
        except POSTGRES_UNAVAILABLE as gone:
            logger.warning("study %s: Postgres is unavailable: %s", self._job_id, gone)
        return True


def is_outage(error: BaseException) -> bool:
    """Whether an error means that Postgres is unavailable: Optuna has one class for that and for data it refuses."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    return isinstance(cause, POSTGRES_UNAVAILABLE)


def forget_failure(session: Session, job: Job) -> None:
    """A whole advance has passed: the error before it has not come again."""
    if job.state is JobState.RUNNING and job.failures and job.reason is None:
        change(session, job, failures=0, message=None)


def _record(session: Session, job_id: UUID, message: str) -> list[UUID]:
    job = lifecycle.begin_study(session, job_id)
    if job is None:
        return []
    history.add_event(
        session, job.id, "log", {"level": "error", "message": f"an advance failed: {message}"}, job.attempt
    )
    if not job.failures:
        change(session, job, failures=1, message=f"an advance failed, the next one tries again: {message}")
        return [job.id]
    rows = StudyRows(session, job, HpoSpec.from_stored(job.spec))
    end = rows.end() or StudyEnd(JobState.FAILED, Reason.INTERNAL, f"two advances in a row failed: {message}")
    if rows.stop_children():
        end.settle(session, job)
    elif end.reason is Reason.INTERNAL and job.reason is None:
        change(session, job, reason=end.reason, message=end.message)
    return rows.changed


def _message_of(error: Exception) -> str:
    cause = f" ({error.__cause__})" if error.__cause__ is not None else ""
    return f"{type(error).__name__}: {error}{cause}"[:MAX_CHARACTERS]
