"""The order of a queue: a hint wakes a worker, and the database rows decide which job it takes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.record import lifecycle, submission, transitions
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason
from tests.integration.worker.supervisor_harness import HONEST_PROGRAM, SupervisorHarness, program
from worker.attempt import supervisor

BUSY = program("crashing", "--failed-reason", "nan_loss", "--code", "1")  # ends quickly


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> SupervisorHarness:
    return SupervisorHarness(settings, sessions)


def order(harness: SupervisorHarness) -> list[UUID]:
    """The jobs in the order in which hints run them, until a hint finds none."""
    ran = []
    while harness.supervisor(BUSY).run() is not None:
        ran.append(harness.published[-1])
    return ran


def test_priority_and_age_decide_also_when_they_change(harness: SupervisorHarness) -> None:
    first, second, third = (harness.submit() for _ in range(3))
    with transaction(harness.sessions) as session:
        lifecycle.set_priority(session, third, 0, by="test")
        lifecycle.set_priority(session, first, 9, by="test")
    assert order(harness) == [third, second, first]


def test_a_delayed_job_keeps_its_queue_position_once_it_is_due(harness: SupervisorHarness) -> None:
    early = harness.submit()
    with transaction(harness.sessions) as session:
        later = func.clock_timestamp() + timedelta(hours=1)
        session.execute(update(Job).where(Job.id == early).values(not_before=later))
    others = [harness.submit() for _ in range(2)]
    assert harness.supervisor(BUSY).run() is JobState.FAILED
    assert harness.published[-1] == others[0]
    with transaction(harness.sessions) as session:
        session.execute(update(Job).where(Job.id == early).values(not_before=func.clock_timestamp()))
    assert order(harness) == [early, others[1]]


def test_another_queue_and_a_study_are_not_taken(harness: SupervisorHarness) -> None:
    with transaction(harness.sessions) as session:
        for kind, queue in ((JobKind.TRAIN, "gpu"), (JobKind.HPO, "cpu")):
            submission.submit(session, submission.NewJob(kind=kind, spec={}, spec_digest="x", queue=queue))
    assert order(harness) == []


def test_concurrent_workers_take_different_jobs(harness: SupervisorHarness) -> None:
    ids = {harness.submit() for _ in range(4)}

    def take(index: int) -> UUID | None:
        with transaction(harness.sessions) as session:
            first = transitions.first_due(session, "cpu")
            if first is None:
                return None
            worker = f"cpu-{index}@h"
            job = lifecycle.claim(session, first.id, worker=worker, host="h", device="cpu", lease_seconds=60)
            return None if job is None else job.id

    with ThreadPoolExecutor(8) as pool:
        taken = [job_id for job_id in pool.map(take, range(8)) if job_id is not None]
    assert (len(taken), set(taken)) == (4, ids)


def test_the_next_job_is_considered_when_the_first_must_wait_for_memory(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    big, small = harness.submit(), harness.submit()
    need(harness, big)
    monkeypatch.setattr("worker.attempt.memory.free_and_total", lambda: (500_000, 2_000_000))
    assert harness.run(small, *HONEST_PROGRAM) is JobState.SUCCEEDED
    assert (harness.job(big).state, harness.job(big).reason) == (JobState.QUEUED, Reason.OOM_HOST)
    assert harness.run(big, *HONEST_PROGRAM) is None


def test_one_hint_postpones_a_bounded_number_of_jobs(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [harness.submit() for _ in range(supervisor.MAX_CLAIM_TRIES + 2)]
    need(harness, *ids)
    monkeypatch.setattr("worker.attempt.memory.free_and_total", lambda: (500_000, 2_000_000))
    assert harness.supervisor(HONEST_PROGRAM).run() is None
    reasons = [harness.job(job_id).reason for job_id in ids]
    assert reasons == [Reason.OOM_HOST] * supervisor.MAX_CLAIM_TRIES + [None] * 2


def need(harness: SupervisorHarness, *ids: UUID) -> None:
    """Record that the last preflight of these jobs measured one megabyte."""
    with transaction(harness.sessions) as session:
        evidence = {"memory": {"needed_bytes": 1_000_000}}
        session.execute(update(Job).where(Job.id.in_(ids)).values(evidence=evidence))
