"""Out of memory: halved micro-batches, a bounded number of times, and jobs that wait for free memory."""

from uuid import UUID

import psutil
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.record import history, queries
from jobs.settings import Settings
from jobs.states import JobState, Reason
from tests.integration.worker.supervisor_harness import HONEST_PROGRAM, SupervisorHarness, program


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> SupervisorHarness:
    return SupervisorHarness(settings, sessions)


def greedy(*options: str) -> tuple[str, ...]:
    return program("greedy", *options, imports=True)


def pending(harness: SupervisorHarness, job_id: UUID) -> str:
    with transaction(harness.sessions) as session:
        queries.heartbeat_worker(session, name="w", host="h", pid=1, queue="cpu", device="cpu", busy_with=None)
        return queries.queue_position(session, queries.get(session, job_id))[1] or ""


@pytest.mark.parametrize("reason", [Reason.OOM_HOST, Reason.OOM_GPU])
def test_g8_pain_28_out_of_memory_halves_the_micro_batch_and_reports_it(
    harness: SupervisorHarness, reason: Reason
) -> None:
    """8 days need 800 MB of the 500 MB there are, 4 days fit."""
    job_id = harness.submit()
    assert harness.run(job_id, *greedy("--failed-reason", reason)) is JobState.QUEUED
    job = harness.job(job_id)
    assert (job.reason, job.failures, job.overrides) == (reason, 1, {"micro_batch_days": 4})
    assert "at most 4 days instead of 8" in (job.message or "")
    assert harness.attempt(job_id, 1).overrides == {}
    assert harness.run(job_id, *greedy("--failed-reason", reason)) is JobState.SUCCEEDED
    job = harness.job(job_id)
    assert job.evidence is not None
    assert job.evidence["micro_batch_days"] == 4
    assert job.spec == job.evidence["requested"]  # the spec is not changed
    assert harness.attempt(job_id, 2).overrides == {"micro_batch_days": 4}
    with transaction(harness.sessions) as session:
        state_events = [event.body for event in history.read_after(session, job_id, 0) if event.kind == "state"]
    assert [body["message"] for body in state_events if body["reason"] == reason] == [
        "the memory is full: MemoryError(); the next attempt makes each update from micro-batches of at most 4 days "
        "instead of 8"
    ]


def test_g8_halving_ends_with_max_attempts(harness: SupervisorHarness) -> None:
    job_id = harness.submit(max_attempts=3)
    argv = greedy("--limit", "50000000")
    assert [harness.run(job_id, *argv) for _ in range(4)] == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED, None]
    assert [harness.attempt(job_id, n).overrides.get("micro_batch_days") for n in (1, 2, 3)] == [None, 4, 2]
    assert harness.job(job_id).reason is Reason.OOM_HOST


def test_g8_one_day_that_does_not_fit_is_not_retried(harness: SupervisorHarness) -> None:
    job_id = harness.submit()
    assert harness.run(job_id, *greedy("--days", "1", "--limit", "50000000")) is JobState.FAILED
    assert (harness.job(job_id).reason, harness.job(job_id).attempt) == (Reason.OOM_HOST, 1)


def test_pain_22_a_job_that_does_not_fit_now_waits_and_reports_it(harness: SupervisorHarness) -> None:
    job_id = harness.submit(max_attempts=1)
    assert harness.run(job_id, *greedy("--does-not-fit")) is JobState.QUEUED
    job = harness.job(job_id)
    assert (job.failures, job.reason) == (0, Reason.OOM_HOST)
    assert pending(harness, job_id).startswith(
        "waits for memory: a micro-batch of 1 days needs more than is free; tries"
    )
    assert harness.run(job_id, *HONEST_PROGRAM) is None  # not before its retry delay
    with transaction(harness.sessions) as session:
        session.execute(update(Job).values(not_before=None))
    assert harness.run(job_id, *HONEST_PROGRAM) is JobState.SUCCEEDED


def test_pain_22_a_job_waits_for_the_memory_that_similar_jobs_needed(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = harness.submit()
    assert harness.run(first, *greedy("--day-bytes", "1")) is JobState.SUCCEEDED
    memory = {"memory": {"needed_bytes": 1_000_000}}
    with transaction(harness.sessions) as session:
        session.execute(update(Job).values(evidence=memory))
    job_id = harness.submit()
    monkeypatch.setattr("worker.attempt.memory.free_and_total", lambda: (500_000, 2_000_000))
    for _ in range(2):
        assert harness.run(job_id, *HONEST_PROGRAM) is None
        with transaction(harness.sessions) as session:
            session.execute(update(Job).where(Job.id == job_id).values(not_before=None))
    job = harness.job(job_id)
    assert (job.state, job.attempt, job.reason, job.last_seq) == (
        JobState.QUEUED,
        0,
        Reason.OOM_HOST,
        2,
    )  # reported once
    monkeypatch.setattr(
        "worker.attempt.memory.free_and_total", lambda: (500_000, 900_000)
    )  # never fits: its preflight reports it
    assert harness.run(job_id, *HONEST_PROGRAM) is JobState.SUCCEEDED


def test_free_memory_is_at_most_total_memory() -> None:
    from atft.memory import free_and_total

    free, total = free_and_total()
    assert 0 < free < total <= psutil.virtual_memory().total
