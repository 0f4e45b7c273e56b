import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import sync_engine, sync_sessions, transaction
from jobs.db.tables import Idempotency, Job
from jobs.record import lifecycle, queries, submission
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason
from worker.slot import DeviceSlot
from worker.upkeep.heartbeat import Heartbeat
from worker.upkeep.sweeper import Sweeper


@dataclass
class SweeperHarness:
    sessions: sessionmaker[Session]
    time: float = 0.0
    step: float = 0.0
    queue_is_empty: bool = True
    hinted: list[tuple[str, UUID, int]] = field(default_factory=list)
    published: list[UUID] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sweeper = Sweeper(
            self.sessions,
            lease_seconds=0.2,
            hint=lambda *hint: self.hinted.append(hint),
            queue_is_empty=lambda _: self.queue_is_empty,
            publish=self.published.append,
            now=lambda: self.time,
            database_time=lambda _session: self.time + self.step,
            sweep_seconds=0.11,
        )

    def submit(self, *, idempotency: tuple[str, str] | None = None, **options: object) -> UUID:
        with transaction(self.sessions) as session:
            new = submission.NewJob(kind=JobKind.TRAIN, spec={}, spec_digest="x", queue="cpu", **options)
            return submission.submit(session, new, idempotency=idempotency).job.id

    def age(self, job_id: UUID, seconds: float = 60) -> None:
        with transaction(self.sessions) as session:
            past = func.now() - text(f"interval '{seconds} s'")
            session.execute(update(Job).where(Job.id == job_id).values(queued_at=past))

    def claim(self, job_id: UUID, lease_seconds: float = 0.05) -> None:
        with transaction(self.sessions) as session:
            assert lifecycle.claim(session, job_id, worker="w", host="h", device="cpu", lease_seconds=lease_seconds)

    def job(self, job_id: UUID) -> Job:
        with transaction(self.sessions) as session:
            return queries.get(session, job_id)


@pytest.fixture
def harness(sessions: sessionmaker[Session]) -> SweeperHarness:
    return SweeperHarness(sessions)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_lease_expires_only_a_full_lease_after_the_sweeper_first_saw_postgres(harness: SweeperHarness) -> None:
    job_id = harness.submit()
    harness.claim(job_id, lease_seconds=0.01)
    harness.sweeper.sweep()
    assert harness.job(job_id).state is JobState.RUNNING
    harness.time += 0.3
    harness.sweeper.sweep()
    job = harness.job(job_id)
    assert (job.state, job.reason, job.failures) == (JobState.QUEUED, Reason.WORKER_LOST, 1)
    assert harness.hinted == [("cpu", job_id, 5)]
    assert harness.published == [job_id]


def test_a_lease_that_is_renewed_is_left_alone(harness: SweeperHarness) -> None:
    job_id = harness.submit()
    harness.claim(job_id, lease_seconds=60)
    harness.sweeper.sweep()
    harness.time += 0.3
    harness.sweeper.sweep()
    assert harness.job(job_id).state is JobState.RUNNING


def test_an_outage_of_postgres_restarts_the_wait(harness: SweeperHarness) -> None:
    job_id = harness.submit()
    harness.claim(job_id, lease_seconds=0.01)
    harness.sweeper.sweep()
    harness.time += 10
    nowhere = Settings(database_url="postgresql://x:y@127.0.0.1:1/z")
    harness.sweeper.sessions = sync_sessions(sync_engine(nowhere))
    harness.sweeper.sweep()
    harness.sweeper.sessions = harness.sessions
    harness.sweeper.sweep()
    assert harness.job(job_id).state is JobState.RUNNING
    harness.time += 0.3
    harness.sweeper.sweep()
    assert harness.job(job_id).state is JobState.QUEUED


@pytest.mark.parametrize("what", ["a frozen Postgres", "a machine that slept"])
def test_g12_no_lease_expires_that_could_not_be_renewed(harness: SweeperHarness, what: str) -> None:
    job_id = harness.submit()
    harness.claim(job_id, lease_seconds=0.01)
    harness.sweeper.sweep()

    @contextmanager
    def late() -> Iterator[Session]:
        with harness.sessions.begin() as session:
            yield session
        harness.sweeper.sessions = harness.sessions
        harness.time += 0.1  # longer than a third of the lease

    if what == "a frozen Postgres":
        harness.time += 0.3
        harness.sweeper.sessions = SimpleNamespace(begin=late)  # type: ignore[assignment]
    else:
        harness.time += 60
    harness.sweeper.sweep()
    harness.sweeper.sweep()
    assert harness.job(job_id).state is JobState.RUNNING
    harness.time += 0.3
    harness.sweeper.sweep()
    assert harness.job(job_id).state is JobState.QUEUED


@pytest.mark.parametrize("step", [60.0, -60.0, 0.07])
def test_g12_a_step_of_the_databases_clock_ends_no_lease(harness: SweeperHarness, step: float) -> None:
    job_id = harness.submit()
    harness.claim(job_id, lease_seconds=0.01)
    harness.sweeper.sweep()
    harness.time += 0.3
    harness.step += step
    harness.sweeper.sweep()
    harness.time += 0.15
    harness.sweeper.sweep()
    assert harness.job(job_id).state is JobState.RUNNING
    harness.time += 0.1
    harness.sweeper.sweep()
    assert harness.job(job_id).state is JobState.QUEUED


def test_a_step_while_leases_are_read_ends_none_either(harness: SweeperHarness) -> None:
    job_id = harness.submit()
    harness.claim(job_id, lease_seconds=0.01)
    harness.sweeper.sweep()
    harness.time += 0.3
    readings = iter([0.0, 60.0])  # by the end of the round
    harness.sweeper.database_time = lambda _session: harness.time + next(readings)
    harness.sweeper.sweep()
    assert harness.job(job_id).state is JobState.RUNNING


def test_a_lost_worker_is_found_when_the_clocks_agree(harness: SweeperHarness) -> None:
    job_id = harness.submit()
    harness.claim(job_id, lease_seconds=0.01)
    ignore = lambda *_: None  # noqa: E731
    real = Sweeper(harness.sessions, 1.5, hint=ignore, queue_is_empty=lambda _: True, publish=ignore, sweep_seconds=1.0)
    real.sweep()
    time.sleep(0.5)
    real.sweep()
    assert harness.job(job_id).state is JobState.RUNNING
    wait_until(lambda: real.sweep() or harness.job(job_id).state is JobState.QUEUED)


def test_a_job_fails_when_the_worker_of_its_last_attempt_is_lost(harness: SweeperHarness) -> None:
    job_id = harness.submit(max_attempts=1)
    harness.claim(job_id, lease_seconds=0.01)
    harness.sweeper.sweep()
    harness.time += 0.3
    harness.sweeper.sweep()
    job = harness.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.WORKER_LOST)
    assert harness.hinted == []


def test_a_lost_hint_is_sent_again_unless_the_queue_has_hints(harness: SweeperHarness) -> None:
    """The hints that are queued suffice: whichever job a hint names, the worker takes the first in the queue."""
    old, new = harness.submit(priority=2), harness.submit()
    harness.age(old)
    harness.queue_is_empty = False
    harness.sweeper.sweep()
    assert harness.hinted == []
    harness.queue_is_empty = True
    harness.sweeper.sweep()
    assert harness.hinted == [("cpu", old, 2)]
    assert harness.job(new).state is JobState.QUEUED


def test_every_active_study_is_hinted_however_many_there_are(
    harness: SweeperHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.upkeep.sweeper.BATCH", 2)
    with transaction(harness.sessions) as session:
        options = {"spec": {}, "spec_digest": "x", "queue": "control"}
        studies = sorted(
            submission.submit(session, submission.NewJob(kind=JobKind.HPO, **options)).job.id for _ in range(4)
        )
    rounds = []
    for _ in range(4):
        harness.hinted.clear()
        harness.sweeper.sweep()
        rounds.append([job_id for queue, job_id, _ in harness.hinted if queue == "control"])
    assert rounds == [studies[:2], studies[2:], studies[:2], studies[2:]]
    harness.queue_is_empty = False
    harness.sweeper.sweep()
    harness.queue_is_empty = True
    harness.hinted.clear()
    harness.sweeper.sweep()
    assert [job_id for _, job_id, _ in harness.hinted] == studies[:2]


def test_a_job_that_must_wait_is_not_hinted(harness: SweeperHarness) -> None:
    job_id = harness.submit()
    harness.claim(job_id, lease_seconds=60)
    with transaction(harness.sessions) as session:
        lifecycle.requeue(
            session,
            job_id,
            1,
            lifecycle.AttemptEnd(reason=Reason.WORKER_LOST, message="m"),
            counts_as_failure=True,
            delay_seconds=60,
        )
    harness.age(job_id)
    harness.sweeper.sweep()
    assert harness.hinted == []


def test_a_job_that_waited_too_long_fails(harness: SweeperHarness) -> None:
    job_id = harness.submit(queue_timeout_seconds=0.01)
    wait_until(lambda: harness.sweeper.sweep() or harness.job(job_id).state is JobState.FAILED)
    assert harness.job(job_id).reason is Reason.TIMEOUT_QUEUE
    assert harness.published == [job_id]


def test_old_idempotency_keys_are_forgotten(harness: SweeperHarness) -> None:
    harness.submit(idempotency=("old", "sha"))
    harness.submit(idempotency=("new", "sha"))
    with transaction(harness.sessions) as session:
        past = func.now() - text("interval '25 hours'")
        session.execute(update(Idempotency).where(Idempotency.key == "old").values(created_at=past))
    harness.sweeper.sweep()
    with transaction(harness.sessions) as session:
        assert session.scalars(select(Idempotency.key)).all() == ["new"]


def test_a_heartbeat_shows_what_its_worker_does(harness: SweeperHarness, tmp_path: Path) -> None:
    slot = DeviceSlot("cpu", 3, "h")
    heartbeat = Heartbeat(harness.sessions, slot, tmp_path, seconds=0.02)
    heartbeat.start()

    def seen() -> list[UUID | None]:
        with transaction(harness.sessions) as session:
            return [worker.busy_with for worker in queries.workers(session) if worker.name == slot.name]

    wait_until(lambda: seen() == [None])
    job_id = harness.submit()
    with transaction(harness.sessions) as session:
        lifecycle.claim(session, job_id, worker=slot.name, host="h", device="cpu", lease_seconds=60)
    wait_until(lambda: seen() == [job_id])
    heartbeat.stop()
    heartbeat.join(5)
    assert not heartbeat.is_alive()
