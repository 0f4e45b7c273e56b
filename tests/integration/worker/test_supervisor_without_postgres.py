"""G12: Postgres is down for longer than a lease and no event is lost: they are buffered and written later."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from atft.events import Log, Metrics, Progress
from atft.spec.job import TrainSpec
from jobs.db.session import transaction
from jobs.db.tables import Job, Metric
from jobs.embedded import servers as embedded
from jobs.record import history, lifecycle, queries, submission
from jobs.settings import Settings
from jobs.states import JobKind, JobState
from worker.attempt.event_buffer import EventBuffer
from worker.attempt.recorder import Recorder
from worker.attempt.supervisor import Supervisor
from worker.attempt.watchdog import Timing
from worker.persistence import persist
from worker.slot import DeviceSlot

MISSING = UUID(int=0)
SPILL = Path("/nonexistent/never")  # the buffers of these tests fit into memory


@pytest.fixture
def database(servers: embedded.EmbeddedServers, template: str) -> Iterator[str]:
    """As in conftest.py, but without a connection that would have to survive the restarts."""
    name = f"t_{uuid4().hex[:12]}"
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield f"{servers.database_url.rpartition('/')[0]}/{name}"
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def job(sessions: sessionmaker[Session]) -> Job:
    with transaction(sessions) as session:
        job_id = submission.submit(
            session, submission.NewJob(kind=JobKind.TRAIN, spec={}, spec_digest="x", queue="cpu")
        ).job.id
    with transaction(sessions) as session:
        job = lifecycle.claim(session, job_id, worker="w", host="h", device="cpu", lease_seconds=0.5)
    assert job is not None
    return job


def start(sessions: sessionmaker[Session], job: Job, attempt: int = 1) -> Recorder:
    recorder = Recorder(
        sessions, job.id, attempt, lease_seconds=0.5, wanted_poll_seconds=0.05, publish=lambda _: None, spill_path=SPILL
    )
    recorder.start()
    return recorder


def flush(recorder: Recorder, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    return recorder.flush(lambda: time.monotonic() > deadline)


def test_g12_events_wait_for_postgres_in_order(
    sessions: sessionmaker[Session], servers: embedded.EmbeddedServers, job: Job
) -> None:
    recorder = start(sessions, job)
    recorder.add(Log(child_seq=1, message="before"))
    assert flush(recorder)
    servers.postgres.stop()
    try:
        for seq in range(2, 1002):
            recorder.add(Metrics(child_seq=seq, step=seq, values={"train/loss": float(seq)}))
        time.sleep(1.0)
        assert not flush(recorder, 0.1)
    finally:
        servers.check()
    assert flush(recorder)
    with transaction(sessions) as session:
        assert queries.expired(session, 10) == []
        events = history.read_after(session, job.id, 0, 2000)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert [event.child_seq for event in events if event.child_seq] == list(range(1, 1002))
        assert len(session.scalars(select(Metric.step).where(Metric.job_id == job.id)).all()) == 1000
    recorder.stop()
    assert recorder.error is None


def has_metrics(sessions: sessionmaker[Session], job_id: UUID) -> bool:
    """Whether the job is running and its first metrics are recorded."""
    with transaction(sessions) as session:
        return bool(queries.get(session, job_id).metrics)


def start_job(sessions: sessionmaker[Session], settings: Settings, epochs: int) -> tuple[UUID, threading.Thread]:
    """Start a worker on the job and wait until its first metrics are recorded."""
    program = Path(__file__).parents[2] / "programs" / "obedient.py"
    (settings.caches_root / "f00d").mkdir(parents=True)
    with transaction(sessions) as session:
        options = {"spec_digest": "x", "queue": "cpu", "dataset": "d", "dataset_fingerprint": "f00d"}
        spec = TrainSpec(dataset="d").model_dump(mode="json")
        job_id = submission.submit(session, submission.NewJob(kind=JobKind.TRAIN, spec=spec, **options)).job.id
    supervisor = Supervisor(
        settings=settings.model_copy(update={"lease_seconds": 0.6}),
        sessions=sessions,
        slot=DeviceSlot("cpu", 0, "here"),
        publish=lambda _: None,
        hint=lambda *_: None,
        program=(
            sys.executable,
            str(program),
            "--evidence-for",
            "f00d",
            "--epochs",
            str(epochs),
            "--epoch-seconds",
            "0.2",
        ),
        timing=Timing(poll_seconds=0.02, wanted_poll_seconds=0.05),
    )
    running = threading.Thread(target=supervisor.run, daemon=True)
    running.start()
    wait_until(lambda: has_metrics(sessions, job_id))
    return job_id, running


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def program_runs() -> bool:
    """Whether a child process runs the program of `start_job`. It only looks: the supervisor must reap the child."""
    lines = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            lines.append(" ".join(child.cmdline()))  # empty for a zombie
    return any("obedient.py" in line for line in lines)


def test_g12_a_job_survives_an_outage_longer_than_its_lease(
    sessions: sessionmaker[Session], settings: Settings, servers: embedded.EmbeddedServers
) -> None:
    job_id, running = start_job(sessions, settings, epochs=10)
    servers.postgres.stop()
    time.sleep(1.5)
    servers.check()
    running.join(30)
    with transaction(sessions) as session:
        job = queries.get(session, job_id)
        assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
        query = select(Metric.step).where(Metric.job_id == job_id, Metric.name == "train/loss")
        assert sorted(session.scalars(query)) == list(range(1, 11))


def test_g12_the_final_event_is_read_when_the_buffer_is_full(
    sessions: sessionmaker[Session],
    settings: Settings,
    servers: embedded.EmbeddedServers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.attempt.recorder.EventBuffer", partial(EventBuffer, memory_bytes=0, disk_bytes=1))
    job_id, running = start_job(sessions, settings, epochs=6)
    servers.postgres.stop()
    wait_until(lambda: not program_runs())
    time.sleep(3.0)  # an outage that is longer than the two seconds for reading the final events
    servers.check()
    running.join(30)
    with transaction(sessions) as session:
        job = queries.get(session, job_id)
        assert (job.state, job.attempt, job.message) == (JobState.SUCCEEDED, 1, None)
        query = select(Metric.step).where(Metric.job_id == job_id, Metric.name == "train/loss")
        assert sorted(session.scalars(query)) == list(range(1, 7))


def test_settling_waits_for_postgres(
    sessions: sessionmaker[Session], servers: embedded.EmbeddedServers, job: Job
) -> None:
    servers.postgres.stop()
    tries = []

    def given_up() -> bool:
        tries.append(len(tries))
        if len(tries) == 3:
            servers.check()
        return False

    persist(sessions, lambda session: lifecycle.settle(session, job.id, 1, JobState.SUCCEEDED), given_up)
    assert len(tries) >= 3
    with transaction(sessions) as session:
        assert queries.get(session, job.id).state is JobState.SUCCEEDED


def test_a_waiting_write_can_give_up(sessions: sessionmaker[Session], servers: embedded.EmbeddedServers) -> None:
    servers.postgres.stop()
    try:
        assert persist(sessions, lambda session: queries.get(session, MISSING), lambda: True) is None
    finally:
        servers.check()


def test_only_the_newest_progress_waits(sessions: sessionmaker[Session], job: Job) -> None:
    recorder = Recorder(
        sessions, job.id, 1, lease_seconds=60, wanted_poll_seconds=60, publish=lambda _: None, spill_path=SPILL
    )
    for seq in range(1, 1001):
        recorder.add(Progress(child_seq=seq, phase="train", ratio=seq / 1000))
    assert len(recorder._buffer.oldest(10)) == 1
    recorder.start()
    assert flush(recorder)
    recorder.stop()
    with transaction(sessions) as session:
        progress = queries.get(session, job.id).progress
    assert progress is not None
    assert progress["ratio"] == 1.0


def test_g12_events_of_a_long_outage_are_spilled_to_disk(
    sessions: sessionmaker[Session], servers: embedded.EmbeddedServers, job: Job, tmp_path: Path
) -> None:
    recorder = start(sessions, job)
    recorder._buffer = EventBuffer(tmp_path / "1" / "unsent.jsonl", memory_bytes=10_000, disk_bytes=1_000_000)
    servers.postgres.stop()
    try:
        for seq in range(1, 2001):
            recorder.add(Log(child_seq=seq, message=f"message {seq}"))
        assert recorder._buffer._head_bytes <= 10_000
        assert (tmp_path / "1" / "unsent.jsonl").stat().st_size > 100_000
        assert not recorder.full
    finally:
        servers.check()
    assert flush(recorder, 30)
    with transaction(sessions) as session:
        logged = [event for event in history.read_after(session, job.id, 0, 3000) if event.kind == "log"]
    assert [event.body["message"] for event in logged] == [f"message {seq}" for seq in range(1, 2001)]
    recorder.stop()
    assert not (tmp_path / "1" / "unsent.jsonl").exists()


def test_another_attempt_is_not_written_to(sessions: sessionmaker[Session], job: Job) -> None:
    recorder = start(sessions, job, attempt=7)
    recorder.add(Log(child_seq=1, message="from the past"))
    assert flush(recorder)
    assert recorder.superseded
    recorder.stop()
    with transaction(sessions) as session:
        assert all(event.kind == "state" for event in history.read_after(session, job.id, 0))
