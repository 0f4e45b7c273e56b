"""Changes of one locked job row, with the transition checked against `states.NEXT` and an event in the same
transaction.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from jobs.db.tables import Job
from jobs.errors import IllegalTransition, JobNotFound
from jobs.record import history
from jobs.record.queries import is_due
from jobs.states import COORDINATING, TERMINAL, JobState, Reason, Wanted, sources_of


def lock(session: Session, job_id: UUID) -> Job:
    """Lock the job's row until the transaction ends and return it as it is now. Raises JobNotFound."""
    query = (
        select(Job).where(Job.id == job_id).with_for_update(key_share=True).execution_options(populate_existing=True)
    )
    job = session.scalars(query).one_or_none()
    if job is None:
        raise JobNotFound(f"there is no job {job_id}")
    return job


def first_due(session: Session, queue: str) -> Job | None:
    """Lock and return the first job of the queue that is due; rows locked by others are skipped."""
    runnable = (Job.state == JobState.QUEUED, Job.queue == queue, Job.kind.not_in(COORDINATING), is_due())
    query = select(Job).where(*runnable).order_by(Job.priority, Job.created_at, Job.id).limit(1)
    return session.scalars(
        query.with_for_update(key_share=True, skip_locked=True).execution_options(populate_existing=True)
    ).one_or_none()


def change(session: Session, job: Job, by: str | None = None, **values: Any) -> Job:
    """Update the job and write its state event; raises IllegalTransition for a `state` that NEXT does not allow."""
    to = values.get("state")
    if values.get("message") is not None:
        values["message"] = history.replace_nul(values["message"])
    statement = update(Job).where(Job.id == job.id, Job.attempt == job.attempt)
    if to is not None:
        statement = statement.where(Job.state.in_(sources_of(to)))
        values = {"lease_until": None, "finished_at": func.clock_timestamp() if to in TERMINAL else None} | values
    statement = statement.values(last_seq=Job.last_seq + 1, version=Job.version + 1, **values)
    options = {"populate_existing": True, "synchronize_session": False}
    changed = session.scalars(statement.returning(Job), execution_options=options).one_or_none()
    if changed is None:
        raise IllegalTransition(f"job {job.id} is {job.state}: it cannot become {to}")
    history.write_event(
        session, changed.id, changed.last_seq, "state", history.state_body(changed, by), changed.attempt
    )
    return changed


def postpone(session: Session, job_id: UUID, seconds: float, reason: Reason, message: str) -> bool:
    """Delay a queued job that waits for resources, with one event per reason; false when it is not queued to run."""
    job = lock(session, job_id)
    if job.state is not JobState.QUEUED or job.wanted is not Wanted.RUN:
        return False
    later = func.clock_timestamp() + timedelta(seconds=seconds)
    if job.reason is reason:
        session.execute(update(Job).where(Job.id == job_id).values(not_before=later, version=Job.version + 1))
    else:
        change(session, job, reason=reason, message=message, not_before=later)
    return True


def settle_if_not_runnable(session: Session, job: Job) -> bool:
    """Cancel, pause or time out a locked queued job that should not run; returns whether it was settled."""
    if job.wanted in (Wanted.CANCEL, Wanted.PRUNE):
        change(
            session, job, state=JobState.CANCELLED, reason=Reason.USER if job.wanted is Wanted.CANCEL else Reason.PRUNED
        )
    elif job.wanted is Wanted.PAUSE:
        change(session, job, state=JobState.PAUSED, reason=Reason.USER)
    elif job.queue_deadline is not None and job.queue_deadline < session.scalars(select(func.clock_timestamp())).one():
        change(
            session,
            job,
            state=JobState.FAILED,
            reason=Reason.TIMEOUT_QUEUE,
            message="no worker took it within queue_timeout_seconds",
        )
    else:
        return False
    return True
