"""G1, G3 and G11 on real processes. The others: G2 and G9 in api, G4 and G7 in worker/test_processes, G5 and G10 in
jobs/test_lifecycle_properties, G6, G8 and G12 in worker/test_supervisor_*; all at once: tests/chaos.
"""

import hashlib
import os
import signal
import time
from uuid import UUID

import psutil
import pytest
import redis
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import ArtifactRow, Metric
from jobs.embedded import servers as embedded
from jobs.record import catalog, history, queries
from jobs.settings import Settings
from jobs.states import JobState
from tests.integration.api.application import SPEC, register, serving
from tests.integration.worker.supervisor_harness import HONEST_PROGRAM, SupervisorHarness
from tests.integration.worker.test_processes import Service, cache, service  # noqa: F401 - fixtures


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> SupervisorHarness:
    return SupervisorHarness(settings, sessions)


@pytest.mark.anyio
@pytest.mark.parametrize("broker", ["emptied", "away"])
async def test_g1_an_accepted_job_runs_without_its_hint(
    settings: Settings, sessions: sessionmaker[Session], servers: embedded.EmbeddedServers, broker: str
) -> None:
    """What the sweep does next is G1 of test_processes: the row alone makes it send the hint."""
    register(sessions)
    if broker == "away":
        servers.valkey.stop()
    try:
        async with serving(settings) as client:
            began = time.monotonic()
            response = await client.post("/jobs/train", json=SPEC)
            assert response.status_code == 202
            assert time.monotonic() - began < 5
    finally:
        servers.check()
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
    with transaction(sessions) as session:
        waiting = queries.due_jobs(session, "cpu", 0.0, 10)
    assert [str(job.id) for job in waiting] == [response.json()["id"]]


def family_of(worker: psutil.Process) -> tuple[psutil.Process, psutil.Process]:
    """A busy worker's pool process and the program that it watches."""
    [pool] = [child for child in worker.children() if child.children()]
    [program] = [child for child in pool.children() if "fork-server" not in child.cmdline()]
    return pool, program


def test_g3_a_frozen_supervisor_writes_nothing_after_another_attempt_began(service: Service) -> None:  # noqa: F811
    service.worker("--control")
    first = service.worker()
    job_id = service.submit()
    service.wait_until_half_trained(job_id)
    pool, program = family_of(psutil.Process(first.pid))
    pool.suspend()
    try:
        # Its lease is over, so that nobody is left who could write files either; the frozen parent cannot reap it.
        service.wait_until(lambda: program.status() == psutil.STATUS_ZOMBIE, 60)
        service.worker("--device", "1")
        service.wait_until(lambda: service.job(job_id).attempt == 2, 60)
        with transaction(service.sessions) as session:
            before = [event.seq for event in history.read_after(session, job_id, 0)]
    finally:
        pool.resume()
    done = service.wait_for_end(job_id)
    log = service.settings.run_root / "workers.log"
    service.wait_until(lambda: "another attempt has the job; nothing was written" in log.read_text(), 20)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
    with transaction(service.sessions) as session:
        events = history.read_after(session, job_id, 0, 2000)
        attempts = set(session.scalars(select(Metric.attempt).where(Metric.job_id == job_id)))
    assert [event.seq for event in events] == list(range(1, done.last_seq + 1))
    assert {event.attempt for event in events if event.seq > before[-1]} == {2}
    assert attempts <= {1, 2}


def listed(harness: SupervisorHarness, job_id: UUID) -> list[ArtifactRow]:
    with transaction(harness.sessions) as session:
        return catalog.artifacts(session, job_id)


def test_g11_a_file_that_was_being_written_at_a_kill_is_never_listed(harness: SupervisorHarness) -> None:
    job_id = harness.submit()
    argv = (*HONEST_PROGRAM, "--epochs", "2", "--epoch-seconds", "0.3")
    running = harness.start(*argv)
    harness.wait_until((harness.folder(job_id) / "checkpoints").exists)
    (harness.folder(job_id) / "model.bin").write_bytes(b"half of the wei")
    os.kill(harness.child_of(job_id), signal.SIGKILL)
    assert running.result() is JobState.QUEUED
    assert listed(harness, job_id) == []
    assert harness.run(job_id, *argv) is JobState.SUCCEEDED
    [artifact] = listed(harness, job_id)
    content = (harness.settings.run_root / artifact.path).read_bytes()
    assert (content, artifact.sha256, artifact.attempt) == (b"weights", hashlib.sha256(b"weights").hexdigest(), 2)
