"""Who goes first: a message wakes a worker up, and the rows say whose turn it is."""

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.record import lifecycle, submission, transitions
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason
from tests.integration.worker.supervision import HONEST, Bench, program
from worker.attempt import supervisor

BUSY = program("crashing", "--word", "nan_loss", "--code", "1")  # quickly over


@pytest.fixture
def bench(settings: Settings, sessions: sessionmaker[Session]) -> Bench:
    return Bench(settings, sessions)


def order(bench: Bench) -> list[UUID]:
    """The jobs in the order in which wake-ups take them, until one finds nothing."""
    ran = []
    while bench.supervisor(BUSY).run() is not None:
        ran.append(bench.published[-1])
    return ran


def test_priority_and_age_decide_also_when_they_change(bench: Bench) -> None:
    first, second, third = (bench.submit() for _ in range(3))
    with transaction(bench.sessions) as session:
        lifecycle.set_priority(session, third, 0, by="test")
        lifecycle.set_priority(session, first, 9, by="test")
    assert order(bench) == [third, second, first]


def test_a_job_that_waited_for_its_next_try_keeps_its_place_among_those_with_hints(bench: Bench) -> None:
    early = bench.submit()
    with transaction(bench.sessions) as session:
        later = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, 1.0)
        session.execute(update(Job).where(Job.id == early).values(not_before=later))
    others = [bench.submit() for _ in range(2)]
    assert bench.supervisor(BUSY).run() is JobState.FAILED
    assert bench.published[-1] == others[0]
    time.sleep(1.0)
    assert order(bench) == [early, others[1]]


def test_another_queue_and_a_study_are_not_taken(bench: Bench) -> None:
    with transaction(bench.sessions) as session:
        for kind, queue in ((JobKind.TRAIN, "gpu"), (JobKind.HPO, "cpu")):
            submission.submit(session, kind=kind, spec={}, spec_digest="x", queue=queue)
    assert order(bench) == []


def test_workers_that_wake_up_together_take_different_jobs(bench: Bench) -> None:
    ids = {bench.submit() for _ in range(4)}

    def take(index: int) -> UUID | None:
        with transaction(bench.sessions) as session:
            first = transitions.first_due(session, "cpu")
            if first is None:
                return None
            worker = f"cpu-{index}@h"
            job = lifecycle.claim(session, first.id, worker=worker, host="h", device="cpu", lease_seconds=60)
            return None if job is None else job.id

    with ThreadPoolExecutor(8) as pool:
        taken = [job_id for job_id in pool.map(take, range(8)) if job_id is not None]
    assert (len(taken), set(taken)) == (4, ids)


def test_the_next_one_is_looked_at_when_the_first_must_wait_for_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    big, small = bench.submit(), bench.submit()
    need(bench, big)
    monkeypatch.setattr("worker.attempt.memory.free_and_total", lambda: (500_000, 2_000_000))
    assert bench.run(small, *HONEST) is JobState.SUCCEEDED
    assert (bench.job(big).state, bench.job(big).reason) == (JobState.QUEUED, Reason.OOM_HOST)
    assert bench.run(big, *HONEST) is None


def test_one_wake_up_puts_off_a_bounded_number(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [bench.submit() for _ in range(supervisor.MOST_LOOKS + 2)]
    need(bench, *ids)
    monkeypatch.setattr("worker.attempt.memory.free_and_total", lambda: (500_000, 2_000_000))
    assert bench.supervisor(HONEST).run() is None
    assert [bench.job(job_id).reason for job_id in ids] == [Reason.OOM_HOST] * supervisor.MOST_LOOKS + [None] * 2


def need(bench: Bench, *ids: UUID) -> None:
    """Their last preflight has measured a megabyte."""
    with transaction(bench.sessions) as session:
        evidence = {"memory": {"needed_bytes": 1_000_000}}
        session.execute(update(Job).where(Job.id.in_(ids)).values(evidence=evidence))
