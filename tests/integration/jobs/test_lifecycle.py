"""Lifecycle of a job on a real Postgres: claims, fencing, retries, cancelling, and the constraints of the schema."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import Attempt, Idempotency, Job, JobEvent
from jobs.errors import IdempotencyMismatch, IllegalTransition, JobNotFound, PreconditionFailed, StaleAttempt
from jobs.record import catalog, history, lifecycle, queries, submission
from jobs.states import NEXT, TERMINAL, JobKind, JobState, Reason, Wanted

Sessions = sessionmaker[Session]


def submit(sessions: Sessions, *, idempotency: tuple[str, str] | None = None, **values: Any) -> UUID:
    fields: dict[str, Any] = {"kind": JobKind.TRAIN, "spec": {"seed": 0}, "spec_digest": "d", "queue": "cpu"} | values
    with transaction(sessions) as session:
        return submission.submit(session, submission.NewJob(**fields), idempotency=idempotency).job.id


def claim(sessions: Sessions, job_id: UUID, lease_seconds: float = 30.0) -> Job | None:
    with transaction(sessions) as session:
        return lifecycle.claim(session, job_id, worker="w1", host="h", device="cpu", lease_seconds=lease_seconds)


def in_transaction(sessions: Sessions, function: Callable[..., Any], *arguments: Any, **values: Any) -> Any:
    with transaction(sessions) as session:
        return function(session, *arguments, **values)


def states(sessions: Sessions, job_id: UUID) -> list[str]:
    with transaction(sessions) as session:
        return [event.body["state"] for event in history.read_after(session, job_id, 0) if event.kind == "state"]


def expire_lease(sessions: Sessions, job_id: UUID) -> None:
    past = sa.func.clock_timestamp() - sa.text("interval '1 second'")
    in_transaction(
        sessions, lambda session: session.execute(sa.update(Job).where(Job.id == job_id).values(lease_until=past))
    )


def test_times_are_in_order_also_when_a_transaction_began_before_another(sessions: Sessions) -> None:
    with transaction(sessions) as early:
        began = early.scalars(sa.select(sa.func.now())).one()
        job_id = submit(sessions)
        claim(sessions, job_id)
        lifecycle.settle(early, job_id, 1, JobState.SUCCEEDED)
    job = in_transaction(sessions, queries.get, job_id)
    with transaction(sessions) as session:
        attempt = session.get_one(Attempt, (job_id, 1))
    assert began < job.created_at <= job.started_at <= attempt.started_at <= attempt.ended_at <= job.finished_at


def test_a_queue_timeout_counts_from_the_submit_and_an_attempt_from_its_claim(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        session.execute(sa.select(sa.func.now()))
        job = submission.submit(
            session,
            submission.NewJob(kind=JobKind.TRAIN, spec={}, spec_digest="d", queue="cpu", queue_timeout_seconds=60),
        ).job
        waits = (job.queue_deadline - job.created_at).total_seconds()  # type: ignore[operator]
        claimed = lifecycle.claim(session, job.id, worker="w", host="h", device="cpu", lease_seconds=60)
        assert claimed is not None
        attempt = session.get_one(Attempt, (job.id, 1))
    assert waits > 60.0  # `created_at` is the start of the transaction
    assert claimed.started_at is not None
    assert attempt.started_at >= claimed.started_at


def test_submitted_job_is_queued_with_one_event(sessions: Sessions) -> None:
    job_id = submit(sessions, tags={"team": "a"}, queue_timeout_seconds=60.0)
    job = in_transaction(sessions, queries.get, job_id)
    assert (job.state, job.wanted, job.attempt, job.version, job.last_seq) == (JobState.QUEUED, Wanted.RUN, 0, 1, 1)
    assert job.created_at.tzinfo is not None
    assert job_id.version == 7
    assert 60 <= (job.queue_deadline - job.created_at).total_seconds() < 65
    events = in_transaction(sessions, history.read_after, job_id, 0)
    assert [(event.seq, event.body) for event in events] == [
        (1, {"state": "queued", "reason": None, "message": None, "attempt": 0, "wanted": "run"})
    ]


def test_unknown_job_is_not_found(sessions: Sessions) -> None:
    for function, arguments in ((queries.get, ()), (lifecycle.want, (Wanted.CANCEL,))):
        with pytest.raises(JobNotFound):
            in_transaction(sessions, function, uuid4(), *arguments, **({"by": "me"} if arguments else {}))


def test_guarantee_2_fifty_equal_submits_are_one_job(sessions: Sessions) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: submit(sessions, idempotency=("key", "sha")), range(50)))
    assert len(set(found)) == 1
    assert in_transaction(sessions, lambda session: session.scalar(sa.select(sa.func.count()).select_from(Job))) == 1


def test_idempotency_key_with_another_body_is_refused(sessions: Sessions) -> None:
    first = submit(sessions, idempotency=("key", "a"))
    with pytest.raises(IdempotencyMismatch):
        submit(sessions, idempotency=("key", "b"))
    assert submit(sessions, idempotency=("key", "a")) == first
    assert submit(sessions, idempotency=("key", "b"), created_by="someone else") != first


def test_idempotency_key_lasts_a_day(sessions: Sessions) -> None:
    first = submit(sessions, idempotency=("key", "a"))
    yesterday = sa.update(Idempotency).values(created_at=sa.text("now() - interval '25 hours'"))
    in_transaction(sessions, lambda session: session.execute(yesterday))
    assert submit(sessions, idempotency=("key", "b")) != first
    in_transaction(sessions, lambda session: session.execute(yesterday))
    in_transaction(sessions, lifecycle.delete_outdated)
    assert in_transaction(sessions, lambda session: session.scalars(sa.select(Idempotency)).all()) == []


def test_claim_race_has_one_winner(sessions: Sessions) -> None:
    job_id = submit(sessions)
    with ThreadPoolExecutor(8) as pool:
        won = [job for job in pool.map(lambda _: claim(sessions, job_id), range(8)) if job is not None]
    assert [job.attempt for job in won] == [1]
    assert claim(sessions, job_id) is None


def test_guarantee_3_only_the_current_attempt_writes(sessions: Sessions) -> None:
    job_id = submit(sessions)
    claim(sessions, job_id)
    expire_lease(sessions, job_id)
    assert in_transaction(sessions, lifecycle.expire, job_id, 1) is JobState.QUEUED
    second = claim(sessions, job_id)
    assert second is not None
    assert second.attempt == 2
    before = in_transaction(sessions, queries.get, job_id)
    writes: list[Callable[[Session], object]] = [
        lambda s: lifecycle.settle(s, job_id, 1, JobState.SUCCEEDED),
        lambda s: lifecycle.requeue(
            s, job_id, 1, lifecycle.AttemptEnd(reason=Reason.INTERNAL, message="m"), counts_as_failure=True
        ),
        lambda s: history.set_progress(s, job_id, 1, {"ratio": 1}),
        lambda s: history.append(s, job_id, 1, []),
        lambda s: catalog.add_artifact(s, job_id, 1, name="a", path="a", size_bytes=1, sha256="s", media_type="t"),
    ]
    for write in writes:
        with pytest.raises(StaleAttempt):
            in_transaction(sessions, write)
    assert in_transaction(sessions, lifecycle.renew, job_id, 1, 30.0) is None
    assert in_transaction(sessions, lifecycle.expire, job_id, 1) is None
    after = in_transaction(sessions, queries.get, job_id)
    assert (after.version, after.last_seq, after.state) == (before.version, before.last_seq, JobState.RUNNING)


def test_settle_twice_with_the_same_end_is_one_end(sessions: Sessions) -> None:
    job_id = submit(sessions)
    claim(sessions, job_id)
    end = lifecycle.AttemptEnd(reason=Reason.OOM_GPU, message="too big", exit_code=1, log_tail="…")
    for _ in range(2):
        in_transaction(sessions, lifecycle.settle, job_id, 1, JobState.FAILED, end)
    job = in_transaction(sessions, queries.get, job_id)
    assert (job.state, job.reason, job.message, job.lease_until) == (JobState.FAILED, Reason.OOM_GPU, "too big", None)
    assert job.finished_at is not None
    assert states(sessions, job_id) == ["queued", "running", "failed"]
    row = in_transaction(sessions, lambda session: session.get_one(Attempt, (job_id, 1)))
    assert (row.outcome, row.exit_code, row.log_tail, row.reason) == ("failed", 1, "…", Reason.OOM_GPU)
    with pytest.raises(StaleAttempt):
        in_transaction(sessions, lifecycle.settle, job_id, 1, JobState.SUCCEEDED)


def test_settle_refuses_a_state_that_does_not_end_an_attempt(sessions: Sessions) -> None:
    job_id = submit(sessions)
    claim(sessions, job_id)
    with pytest.raises(ValueError, match="queued"):
        in_transaction(sessions, lifecycle.settle, job_id, 1, JobState.QUEUED)


def test_requeued_job_waits_its_delay_and_keeps_its_evidence(sessions: Sessions) -> None:
    job_id = submit(sessions)
    claim(sessions, job_id)
    end = lifecycle.AttemptEnd(reason=Reason.DRAINED, message="worker stops", signal="SIGTERM")
    for _ in range(2):  # repeated: no second event
        state = in_transaction(sessions, lifecycle.requeue, job_id, 1, end, counts_as_failure=False, delay_seconds=3600)
        assert state is JobState.QUEUED
    assert claim(sessions, job_id) is None
    job = in_transaction(sessions, queries.get, job_id)
    assert (job.failures, job.reason, job.worker) == (0, Reason.DRAINED, None)
    now = sa.func.clock_timestamp()
    delay = job.not_before - in_transaction(sessions, lambda session: session.scalar(sa.select(now)))
    assert 3500 < delay.total_seconds() <= 3600
    in_transaction(
        sessions, lambda session: session.execute(sa.update(Job).where(Job.id == job_id).values(not_before=now))
    )
    again = claim(sessions, job_id)
    assert again is not None
    assert (again.attempt, again.reason) == (2, None)
    row = in_transaction(sessions, lambda session: session.get_one(Attempt, (job_id, 1)))
    assert (row.outcome, row.signal) == ("requeued", "SIGTERM")


def test_guarantee_8_a_job_that_always_fails_is_attempted_max_attempts_times(sessions: Sessions) -> None:
    job_id = submit(sessions, max_attempts=3)
    for number in (1, 2, 3):
        assert claim(sessions, job_id) is not None
        end = lifecycle.AttemptEnd(reason=Reason.OOM_HOST, message="killed")
        state = in_transaction(sessions, lifecycle.requeue, job_id, number, end, counts_as_failure=True)
    assert state is JobState.FAILED
    job = in_transaction(sessions, queries.get, job_id)
    assert (job.attempt, job.failures, job.reason) == (3, 3, Reason.OOM_HOST)
    assert "3 of 3" in job.message
    assert claim(sessions, job_id) is None


def test_lease_renewed_late_is_not_expired(sessions: Sessions) -> None:
    job_id = submit(sessions)
    claim(sessions, job_id)
    expire_lease(sessions, job_id)
    assert [job.id for job in in_transaction(sessions, queries.expired, 10)] == [job_id]
    assert in_transaction(sessions, lifecycle.renew, job_id, 1, 30.0) is Wanted.RUN
    assert in_transaction(sessions, queries.expired, 10) == []
    assert in_transaction(sessions, lifecycle.expire, job_id, 1) is None


def test_two_sweepers_expire_once(sessions: Sessions) -> None:
    job_id = submit(sessions)
    claim(sessions, job_id)
    expire_lease(sessions, job_id)
    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(lambda _: in_transaction(sessions, lifecycle.expire, job_id, 1), range(4)))
    assert sorted(ends, key=str) == [None, None, None, JobState.QUEUED]
    job = in_transaction(sessions, queries.get, job_id)
    assert (job.failures, job.reason) == (1, Reason.WORKER_LOST)


@pytest.mark.parametrize("prepare", ["queued", "paused"])
def test_a_job_that_is_not_running_is_cancelled_at_once(sessions: Sessions, prepare: str) -> None:
    job_id = submit(sessions)
    if prepare == "paused":
        in_transaction(sessions, lifecycle.want, job_id, Wanted.PAUSE, by="me")
    job = in_transaction(sessions, lifecycle.want, job_id, Wanted.CANCEL, by="me")
    assert (job.state, job.reason) == (JobState.CANCELLED, Reason.USER)
    again = in_transaction(sessions, lifecycle.want, job_id, Wanted.CANCEL, by="me")
    assert again.version == job.version
    assert in_transaction(sessions, history.read_after, job_id, 0)[-1].body["by"] == "me"


def test_cancel_of_a_running_job_is_requested_once_and_seen_by_the_worker(sessions: Sessions) -> None:
    job_id = submit(sessions)
    claim(sessions, job_id)
    first = in_transaction(sessions, lifecycle.want, job_id, Wanted.CANCEL, by="me")
    second = in_transaction(sessions, lifecycle.want, job_id, Wanted.CANCEL, by="me")
    assert (first.state, first.version) == (JobState.RUNNING, second.version)
    assert in_transaction(sessions, lifecycle.renew, job_id, 1, 30.0) is Wanted.CANCEL
    with pytest.raises(IllegalTransition):
        in_transaction(sessions, lifecycle.want, job_id, Wanted.RUN, by="me")
    in_transaction(sessions, lifecycle.settle, job_id, 1, JobState.CANCELLED, lifecycle.AttemptEnd(reason=Reason.USER))
    with pytest.raises(IllegalTransition):
        in_transaction(sessions, lifecycle.want, job_id, Wanted.PAUSE, by="me")


def test_lost_worker_of_a_cancelled_job_ends_it_cancelled(sessions: Sessions) -> None:
    job_id = submit(sessions)
    claim(sessions, job_id)
    in_transaction(sessions, lifecycle.want, job_id, Wanted.CANCEL, by="me")
    expire_lease(sessions, job_id)
    assert in_transaction(sessions, lifecycle.expire, job_id, 1) is JobState.CANCELLED


def test_claim_of_a_job_with_a_cancel_request_cancels_it(sessions: Sessions) -> None:
    job_id = submit(sessions)
    in_transaction(sessions, lambda session: session.execute(sa.update(Job).values(wanted=Wanted.CANCEL)))
    assert claim(sessions, job_id) is None
    assert in_transaction(sessions, queries.get, job_id).state is JobState.CANCELLED


def test_pause_and_resume(sessions: Sessions) -> None:
    job_id = submit(sessions)
    claim(sessions, job_id)
    in_transaction(sessions, lifecycle.want, job_id, Wanted.PAUSE, by="me")
    in_transaction(sessions, lifecycle.settle, job_id, 1, JobState.PAUSED, lifecycle.AttemptEnd(reason=Reason.USER))
    assert claim(sessions, job_id) is None
    job = in_transaction(sessions, lifecycle.want, job_id, Wanted.RUN, by="me")
    assert (job.state, job.wanted) == (JobState.QUEUED, Wanted.RUN)
    resumed = claim(sessions, job_id)
    assert resumed is not None
    assert (resumed.attempt, resumed.failures) == (2, 0)


@pytest.mark.parametrize(
    ("change", "state"),
    [(Wanted.RUN, JobState.QUEUED), (Wanted.CANCEL, JobState.CANCELLED), (Wanted.PRUNE, JobState.PRUNED)],
)
def test_a_request_made_while_pausing_takes_precedence(sessions: Sessions, change: Wanted, state: JobState) -> None:
    job_id = submit(sessions)
    claim(sessions, job_id)
    in_transaction(sessions, lifecycle.want, job_id, Wanted.PAUSE, by="me")
    in_transaction(sessions, lifecycle.want, job_id, change, by="me")
    in_transaction(sessions, lifecycle.settle, job_id, 1, JobState.PAUSED)
    assert in_transaction(sessions, queries.get, job_id).state is state


def test_if_match(sessions: Sessions) -> None:
    job_id = submit(sessions)
    with pytest.raises(PreconditionFailed):
        in_transaction(sessions, lifecycle.want, job_id, Wanted.CANCEL, by="me", expected_version=7)
    assert in_transaction(sessions, lifecycle.want, job_id, Wanted.CANCEL, by="me", expected_version=1).version == 2


def test_queue_timeout(sessions: Sessions) -> None:
    late, claimed = (submit(sessions, queue_timeout_seconds=1e-6) for _ in range(2))
    patient = submit(sessions, queue_timeout_seconds=60.0)
    assert claim(sessions, claimed) is None
    assert in_transaction(sessions, lifecycle.expire_queued, 10) == [late]
    for job_id in (late, claimed):
        job = in_transaction(sessions, queries.get, job_id)
        assert (job.state, job.reason) == (JobState.FAILED, Reason.TIMEOUT_QUEUE)
    assert claim(sessions, patient) is not None


def test_schema_refuses_illegal_transitions_and_changed_history(sessions: Sessions) -> None:
    """The trigger refuses every transition that is not in NEXT, also as raw SQL; events cannot be changed."""
    moves = sa.text(
        "UPDATE jobs SET state = :to, lease_until = NULL, finished_at = CASE WHEN :final THEN now() END WHERE id = :id"
    )
    ends = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.PRUNED}
    assert ends == TERMINAL
    refused = [(state, to) for state in JobState for to in JobState if to is not state and to not in NEXT[state]]
    for state, to in refused:
        job_id = submit(sessions)
        _move_to_state(sessions, job_id, state)
        values = {"to": to.value, "final": to in TERMINAL, "id": job_id}
        with pytest.raises(sa.exc.IntegrityError, match="cannot become"):
            in_transaction(sessions, Session.execute, moves, values)
    for statement in (sa.update(JobEvent).values(body={}), sa.delete(JobEvent)):
        with pytest.raises(sa.exc.IntegrityError, match="history"):
            in_transaction(sessions, Session.execute, statement)


def _move_to_state(sessions: Sessions, job_id: UUID, state: JobState) -> None:
    match state:
        case JobState.QUEUED:
            pass
        case JobState.PAUSED:
            in_transaction(sessions, lifecycle.want, job_id, Wanted.PAUSE, by="me")
        case JobState.RUNNING:
            claim(sessions, job_id)
        case _:
            claim(sessions, job_id)
            in_transaction(sessions, lifecycle.settle, job_id, 1, state)


def test_deleting_a_job_deletes_its_events(sessions: Sessions) -> None:
    job_id = submit(sessions)
    claim(sessions, job_id)
    in_transaction(sessions, lambda session: session.execute(sa.delete(Job).where(Job.id == job_id)))
    assert (
        in_transaction(sessions, lambda session: session.scalar(sa.select(sa.func.count()).select_from(JobEvent))) == 0
    )


def test_a_job_must_be_inserted_as_queued(sessions: Sessions) -> None:
    job_id = submit(sessions)
    copy = sa.text(
        "INSERT INTO jobs (id, kind, queue, spec, spec_digest, state) VALUES (:id, 'train', 'cpu', '{}', 'd', 'paused')"
    )
    with pytest.raises(sa.exc.IntegrityError, match="starts queued"):
        in_transaction(sessions, lambda session: session.execute(copy, {"id": uuid4()}))
    assert in_transaction(sessions, queries.get, job_id).state is JobState.QUEUED
