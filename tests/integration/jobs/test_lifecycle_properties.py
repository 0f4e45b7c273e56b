"""Random sequences of operations on a job: terminal states are final, and the history has no gap (guarantee 5)."""

import itertools
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session, sessionmaker

from atft.events import Checkpointed, Log, Metrics
from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.errors import IllegalTransition, StaleAttempt
from jobs.record import history, lifecycle, queries, submission
from jobs.states import NEXT, TERMINAL, JobKind, JobState, Reason, Wanted

ATTEMPTS = st.integers(0, 3)
COMMANDS = st.one_of(
    st.tuples(st.just("claim"), st.floats(-1.0, 1.0)),  # a negative lease is over at once
    st.tuples(st.just("settle"), ATTEMPTS, st.sampled_from([*TERMINAL, JobState.PAUSED])),
    st.tuples(st.just("requeue"), ATTEMPTS, st.booleans()),
    st.tuples(st.just("want"), st.sampled_from(Wanted)),
    st.tuples(st.just("expire"), ATTEMPTS),
    st.tuples(st.just("append"), ATTEMPTS, st.integers(1, 6)),
)


def _events(first: int) -> list[Log | Metrics | Checkpointed]:
    return [
        Metrics(child_seq=first, step=first, values={"val/rank_ic": first / 10}, best=True),
        Checkpointed(child_seq=first + 1, path=f"1/checkpoints/{first}", step=first, epoch=first, sha256="s"),
        Log(child_seq=first + 2, message="m"),
    ]


def _apply(session: Session, job_id: Any, command: tuple[Any, ...]) -> None:
    match command:
        case "claim", lease_seconds:
            lifecycle.claim(session, job_id, worker="w", host="h", device="cpu", lease_seconds=lease_seconds)
        case "settle", attempt, to:
            lifecycle.settle(session, job_id, attempt, to, lifecycle.AttemptEnd(reason=Reason.USER))
        case "requeue", attempt, counts:
            lifecycle.requeue(
                session,
                job_id,
                attempt,
                lifecycle.AttemptEnd(reason=Reason.WORKER_LOST, message="m"),
                counts_as_failure=counts,
            )
        case "want", wanted:
            lifecycle.want(session, job_id, wanted, by="me")
        case "expire", attempt:
            lifecycle.expire(session, job_id, attempt)
        case "append", attempt, first:
            history.append(session, job_id, attempt, _events(first))


def _snapshot(job: Job) -> dict[str, Any]:
    return {column.key: getattr(job, column.key) for column in Job.__table__.columns}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commands=st.lists(COMMANDS, min_size=1, max_size=14))
def test_g5_terminal_is_final_and_history_has_no_gap(
    sessions: sessionmaker[Session], commands: list[tuple[Any, ...]]
) -> None:
    with transaction(sessions) as session:
        job = submission.submit(
            session, submission.NewJob(kind=JobKind.TRAIN, spec={}, spec_digest="d", queue="cpu", max_attempts=2)
        ).job
    for command in commands:
        before = _snapshot(job)
        try:
            with transaction(sessions) as session:
                _apply(session, job.id, command)
        except (IllegalTransition, StaleAttempt):
            pass
        with transaction(sessions) as session:
            job = queries.get(session, job.id)
            events = history.read_after(session, job.id, 0)
        after = _snapshot(job)
        assert [event.seq for event in events] == list(range(1, job.last_seq + 1))
        assert job.failures <= min(job.attempt, job.max_attempts)
        assert (job.version > before["version"]) or after == before | {"lease_until": after["lease_until"]}
        if before["state"] in TERMINAL:
            assert after == before
        states = [JobState(event.body["state"]) for event in events if event.kind == "state"]
        assert states[-1] is job.state
        assert all(b is a or b in NEXT[a] for a, b in itertools.pairwise(states))


BATCHES = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 5)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=BATCHES)
def test_g10_replaying_any_batch_changes_nothing(sessions: sessionmaker[Session], cuts: list[tuple[int, int]]) -> None:
    """Whichever events are repeated, in whichever batches, the record equals that of one pass without repeats."""
    stream = [event for first in (1, 4, 7, 10) for event in _events(first)]
    with transaction(sessions) as session:
        job_id = submission.submit(
            session, submission.NewJob(kind=JobKind.TRAIN, spec={}, spec_digest="d", queue="cpu")
        ).job.id
        lifecycle.claim(session, job_id, worker="w", host="h", device="cpu", lease_seconds=60)
    recorded = 0
    for back, length in [*cuts, (len(stream), 2 * len(stream))]:
        start = max(0, recorded - back)
        batch = stream[start : start + length]
        with transaction(sessions) as session:
            assert history.append(session, job_id, 1, batch) == max(0, start + len(batch) - recorded)
        recorded = max(recorded, start + len(batch))
    with transaction(sessions) as session:
        job = queries.get(session, job_id)
        events = [event for event in history.read_after(session, job_id, 0) if event.kind != "state"]
        series = history.series(session, job_id, None)
    assert [event.child_seq for event in events] == [e.child_seq for e in stream if not isinstance(e, Checkpointed)]
    assert series == {"val/rank_ic": {"step": [1, 4, 7, 10], "value": [0.1, 0.4, 0.7, 1.0]}}
    assert job.metrics == {"val/rank_ic": 1.0}
    assert job.checkpoint is not None
    assert job.checkpoint["step"] == 10
