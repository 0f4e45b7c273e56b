"""The state transitions of a job: each is one guarded UPDATE that checks `states.NEXT`, with its event in the same
transaction. The functions do not commit (`session.transaction` does), and all times are the database's.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from jobs.db.tables import Attempt, Idempotency, Job, Json, Worker
from jobs.errors import IllegalTransition, PreconditionFailed, StaleAttempt
from jobs.record import history
from jobs.record.actions import ACTION_OF, Action, refusal
from jobs.record.queries import (
    get,
    is_due,
    seconds_ago,
)
from jobs.record.rewind import rewind
from jobs.record.submission import DAY
from jobs.record.transitions import change, lock, settle_if_not_runnable
from jobs.states import COORDINATING, TERMINAL, JobState, Reason, Wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptEnd:
    """How an attempt ended. Reason and message are the job's too, the rest is stored in the attempt's row only."""

    reason: Reason | None = None
    message: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    log_tail: str | None = None


_NO_MORE: Final = AttemptEnd()  # the state says all


def claim(
    session: Session, job_id: UUID, *, worker: str, host: str, device: str, lease_seconds: float, pid: int | None = None
) -> Job | None:
    """Start a new attempt of a queued job; its number is the fencing token. None when the job cannot be claimed, as for
    a late or repeated hint.

    Metric points after the last checkpoint are deleted, since the attempt computes them again. A job that should not
    run any more (cancelled, paused, past its queue timeout) is settled instead.
    """
    runnable = (Job.state == JobState.QUEUED, Job.kind.not_in(COORDINATING))
    query = select(Job).where(Job.id == job_id, *runnable, is_due())
    job = session.scalars(
        query.with_for_update(key_share=True, skip_locked=True).execution_options(populate_existing=True)
    ).one_or_none()
    if job is None or settle_if_not_runnable(session, job):
        return None
    rewound = rewind(session, job)
    job = change(
        session,
        job,
        state=JobState.RUNNING,
        attempt=Job.attempt + 1,
        lease_until=func.clock_timestamp() + timedelta(seconds=lease_seconds),
        worker=worker,
        started_at=func.coalesce(Job.started_at, func.clock_timestamp()),
        reason=None,
        message=None,
        not_before=None,
        queue_deadline=None,
        child_seq=0,
        progress=None,
        evidence=None,
        **rewound,
    )
    attempt = {"job_id": job.id, "attempt": job.attempt, "worker": worker, "host": host, "device": device, "pid": pid}
    session.execute(insert(Attempt).values(**attempt, resumed_from=job.checkpoint, overrides=job.overrides))
    return job


def begin_study(session: Session, job_id: UUID) -> Job | None:
    """Lock a study until the transaction ends, set to running; None when it is finished, paused or deleted.

    A study has one attempt and no lease: no worker holds it, and each advance starts from its rows.
    """
    query = select(Job).where(Job.id == job_id, Job.kind.in_(COORDINATING))
    job = session.scalars(query.with_for_update(key_share=True).execution_options(populate_existing=True)).one_or_none()
    if job is None or job.state not in (JobState.QUEUED, JobState.RUNNING):
        return None
    if job.state is JobState.RUNNING:
        return job
    if settle_if_not_runnable(session, job):
        return None
    job = change(
        session, job, state=JobState.RUNNING, attempt=Job.attempt + 1, started_at=func.clock_timestamp(),
        reason=None, message=None, queue_deadline=None,
    )  # fmt: skip
    session.execute(
        insert(Attempt).values(job_id=job.id, attempt=job.attempt, worker="control", host="", device="none")
    )
    return job


def fail_queued(session: Session, job_id: UUID, reason: Reason, message: str) -> Job:
    """Fail a queued job that cannot run. Raises IllegalTransition when it is not queued."""
    job = lock(session, job_id)
    if job.state is not JobState.QUEUED:
        raise IllegalTransition(f"job {job_id} is {job.state}: it is not queued any more")
    return change(session, job, state=JobState.FAILED, reason=reason, message=message)


def renew(session: Session, job_id: UUID, attempt: int, lease_seconds: float) -> Wanted | None:
    """Extend the lease, also an expired one; returns the desired state, or None when the attempt has ended."""
    running = update(Job).where(Job.id == job_id, Job.attempt == attempt, Job.state == JobState.RUNNING)
    renewed = running.values(lease_until=func.clock_timestamp() + timedelta(seconds=lease_seconds)).returning(
        Job.wanted
    )
    return session.scalars(renewed, execution_options={"synchronize_session": False}).one_or_none()


def _end_attempt(session: Session, job_id: UUID, attempt: int, end: AttemptEnd, outcome: str) -> Job | None:
    """Record the end of an attempt and return its locked job; None when the same end was recorded before, by a commit
    whose confirmation was lost. Raises StaleAttempt.
    """
    job = lock(session, job_id)
    row = session.get(Attempt, (job_id, attempt), populate_existing=True)
    if (
        job.attempt != attempt
        or row is None
        or (row.outcome not in (None, outcome))
        or (row.outcome is None and job.state is not JobState.RUNNING)
    ):
        raise StaleAttempt(f"attempt {attempt} of job {job_id} is over")
    if row.outcome is not None:
        return None
    row.outcome, row.reason, row.exit_code, row.signal = outcome, end.reason, end.exit_code, end.signal
    row.log_tail = None if end.log_tail is None else history.replace_nul(end.log_tail)
    row.ended_at = session.scalars(select(func.clock_timestamp())).one()
    session.flush()
    return job


def settle(session: Session, job_id: UUID, attempt: int, to: JobState, end: AttemptEnd = _NO_MORE) -> None:
    """End the attempt and finish or pause its job. Idempotent. Raises StaleAttempt.

    A desired state set in the meantime takes precedence over a pause: a cancelled or pruned job ends, a resumed one is
    queued.
    """
    if to not in TERMINAL | {JobState.PAUSED}:
        raise ValueError(f"an attempt does not end a job as {to}")
    job = _end_attempt(session, job_id, attempt, end, to.value)
    if job is None:
        return
    if to is JobState.PAUSED and job.wanted is Wanted.RUN:
        _requeue(session, job, Reason.USER, "resumed")
    elif to is JobState.PAUSED and job.wanted is Wanted.CANCEL:
        change(session, job, state=JobState.CANCELLED, reason=_cancel_reason(job), message=end.message)
    elif to is JobState.PAUSED and job.wanted is Wanted.PRUNE:
        change(session, job, state=JobState.PRUNED, reason=Reason.PRUNED, message=end.message)
    elif to is JobState.CANCELLED and end.reason is Reason.USER:
        change(session, job, state=to, reason=_cancel_reason(job), message=end.message)
    else:
        change(session, job, state=to, reason=end.reason, message=end.message)


def _requeue(
    session: Session,
    job: Job,
    reason: Reason | None,
    message: str | None,
    delay_seconds: float = 0.0,
    failures: int = 0,
) -> Job:
    not_before = func.clock_timestamp() + timedelta(seconds=delay_seconds) if delay_seconds > 0 else None
    return change(
        session,
        job,
        state=JobState.QUEUED,
        reason=reason,
        message=message,
        worker=None,
        not_before=not_before,
        queued_at=func.clock_timestamp(),
        failures=Job.failures + failures,
    )


def requeue(
    session: Session,
    job_id: UUID,
    attempt: int,
    end: AttemptEnd,
    *,
    counts_as_failure: bool,
    delay_seconds: float = 0.0,
    overrides: Json | None = None,
    outcome: str = "requeued",
) -> JobState:
    """End the attempt and queue the job again, not before `delay_seconds` from now and with `overrides` merged into its
    own; returns the job's state. Raises StaleAttempt.

    When a counted failure is the `max_attempts`-th, the job fails instead. A job with another desired state is
    cancelled, pruned or paused instead.
    """
    job = _end_attempt(session, job_id, attempt, end, outcome)
    if job is None:
        return get(session, job_id).state
    if overrides:
        job.overrides = job.overrides | overrides
    failures = job.failures + counts_as_failure
    message = end.message
    if job.wanted is Wanted.CANCEL:
        return change(session, job, state=JobState.CANCELLED, reason=_cancel_reason(job), message=message).state
    if job.wanted is Wanted.PRUNE:
        return change(session, job, state=JobState.PRUNED, reason=Reason.PRUNED, message=message).state
    if counts_as_failure and failures >= job.max_attempts:
        text = f"{message} ({failures} of {job.max_attempts} attempts failed)"
        return change(session, job, state=JobState.FAILED, reason=end.reason, message=text, failures=failures).state
    if job.wanted is Wanted.PAUSE:
        return change(session, job, state=JobState.PAUSED, reason=Reason.USER, message=message, failures=failures).state
    return _requeue(session, job, end.reason, message, delay_seconds, int(counts_as_failure)).state


def want(
    session: Session,
    job_id: UUID,
    wanted: Wanted,
    *,
    by: str,
    expected_version: int | None = None,
    reason: Reason = Reason.USER,
) -> Job:
    """Set the desired state of a job. It takes effect at once when the job is not running, else when its worker reads
    it. Idempotent.

    Raises IllegalTransition when the job has finished or is being cancelled, PreconditionFailed when its version is not
    `expected_version`.
    """
    job = lock(session, job_id)
    if expected_version is not None and job.version != expected_version:
        raise PreconditionFailed(f"job {job_id} has changed: its version is {job.version}")
    if job.state is JobState.CANCELLED and wanted is Wanted.CANCEL:
        return job
    if (refused := refusal(job, ACTION_OF[wanted])) is not None:
        raise IllegalTransition(refused)
    if job.state is JobState.PAUSED and wanted is Wanted.RUN:
        return change(
            session,
            job,
            by,
            state=JobState.QUEUED,
            wanted=wanted,
            reason=None,
            message=None,
            queued_at=func.clock_timestamp(),
            not_before=None,
        )
    if job.state is not JobState.RUNNING and wanted in (Wanted.CANCEL, Wanted.PRUNE):
        ended = reason if wanted is Wanted.CANCEL else Reason.PRUNED
        return change(session, job, by, state=JobState.CANCELLED, wanted=wanted, reason=ended, message=None)
    if job.state is JobState.QUEUED and wanted is Wanted.PAUSE:
        return change(
            session, job, by, state=JobState.PAUSED, wanted=wanted, reason=reason, message=None, queue_deadline=None
        )
    if job.wanted is wanted:
        return job
    why = {} if reason is Reason.USER else {"reason": reason}  # kept until the job ends: see _cancel_reason
    return change(session, job, by, wanted=wanted, **why)


def _cancel_reason(job: Job) -> Reason:
    return Reason.PARENT_STOPPED if job.reason is Reason.PARENT_STOPPED else Reason.USER


def set_priority(
    session: Session, job_id: UUID, priority: int, *, by: str, expected_version: int | None = None
) -> list[Job]:
    """Set the priority of a job (0 runs first, 9 last) and of a study's unfinished children; returns the changed jobs,
    the given one first.

    Raises IllegalTransition when the job has finished, PreconditionFailed.
    """
    job = lock(session, job_id)
    if expected_version is not None and job.version != expected_version:
        raise PreconditionFailed(f"job {job_id} has changed: its version is {job.version}")
    if (refused := refusal(job, Action.PRIORITY)) is not None:
        raise IllegalTransition(refused)
    children = select(Job.id).where(Job.parent_id == job_id, Job.state.not_in(TERMINAL)).order_by(Job.id)
    jobs = [job, *(lock(session, child) for child in session.scalars(children).all())]
    return [change(session, each, by, priority=priority) for each in jobs if each is job or each.state not in TERMINAL]


def expire(session: Session, job_id: UUID, attempt: int) -> JobState | None:
    """End an attempt whose lease has expired: the job is queued again, or fails after its last attempt. Returns the new
    state; None when the attempt has renewed its lease or ended in between.
    """
    job = lock(session, job_id)
    still = select(Job.id).where(
        Job.id == job_id,
        Job.attempt == attempt,
        Job.state == JobState.RUNNING,
        Job.lease_until < func.clock_timestamp(),
    )
    if session.scalars(still).one_or_none() is None:
        return None
    message = f"worker {job.worker} was lost: it did not renew its lease"
    end = AttemptEnd(reason=Reason.WORKER_LOST, message=message)
    return requeue(session, job_id, attempt, end, counts_as_failure=True, outcome="lost")


def expire_queued(session: Session, limit: int) -> list[UUID]:
    """Fail queued jobs whose queue timeout has passed; returns their ids."""
    query = select(Job).where(Job.state == JobState.QUEUED, Job.queue_deadline < func.clock_timestamp()).limit(limit)
    late = session.scalars(query.with_for_update(key_share=True, skip_locked=True)).all()
    return [job.id for job in late if settle_if_not_runnable(session, job)]


def delete_outdated(session: Session) -> None:
    """Delete idempotency keys older than a day, and workers not seen for a day."""
    session.execute(delete(Idempotency).where(Idempotency.created_at < seconds_ago(DAY)))
    session.execute(delete(Worker).where(Worker.last_seen < seconds_ago(DAY)))
