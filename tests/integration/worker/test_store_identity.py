"""A worker whose run root is not the store of its database takes no job, and puts back one that it has."""

import json
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import Store
from jobs.record import queries, store_identity
from jobs.settings import Settings
from jobs.states import JobState, Reason
from tests.integration.worker.supervisor_harness import HONEST_PROGRAM, SupervisorHarness
from worker.slot import DeviceSlot
from worker.upkeep.heartbeat import Heartbeat


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> SupervisorHarness:
    return SupervisorHarness(settings, sessions)


def test_the_first_run_root_is_bound_and_any_other_is_refused_in_words(
    settings: Settings, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    with transaction(sessions) as session:
        assert store_identity.problem(session, settings.run_root) is None
        assert store_identity.bind(session, settings.run_root) is None
    mark = settings.run_root / store_identity.MARK
    whole = mark.read_bytes()
    with transaction(sessions) as session:
        assert store_identity.problem(session, settings.run_root) is None
        assert "not mounted" in (store_identity.bind(session, other) or "")
        assert not other.exists()
        for content in (b"", b"[]", b'{"id": 7}', b'{"id": "7"}'):
            mark.write_bytes(content)
            assert "no readable store.json" in (store_identity.problem(session, settings.run_root) or "")
        mark.write_text(json.dumps({"id": str(uuid4())}))
        assert "belongs to another database" in (store_identity.problem(session, settings.run_root) or "")
        mark.write_bytes(whole)
        assert store_identity.problem(session, settings.run_root) is None
        session.execute(delete(Store))
        assert "belongs to another database" in (store_identity.bind(session, settings.run_root) or "")


def test_a_kill_or_an_error_while_binding_leaves_nothing_that_a_later_worker_refuses(
    settings: Settings, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    root, mark = settings.run_root, settings.run_root / store_identity.MARK
    (tmp_path / "file").touch()
    with transaction(sessions) as session:
        assert "cannot be written: Not a directory" in (store_identity.bind(session, tmp_path / "file" / "root") or "")
    with sessions() as killed:  # before its commit
        assert store_identity.bind(killed, root) is None
    assert not mark.exists()
    with transaction(sessions) as session:
        assert store_identity.known_id(session) is None
        assert store_identity.problem(session, root) is None
        assert store_identity.bind(session, root) is None
    mark.rename(root / store_identity._PENDING)  # killed just after its commit
    with transaction(sessions) as session:
        assert store_identity.problem(session, root) is None
        assert not mark.exists()
        assert store_identity.bind(session, root) is None
        assert store_identity.problem(session, root) is None
    assert mark.exists()


def test_a_worker_with_a_foreign_run_root_takes_nothing_and_says_why(harness: SupervisorHarness) -> None:
    job_id = harness.submit()
    assert harness.run(job_id, *HONEST_PROGRAM) is JobState.SUCCEEDED
    queued = harness.submit(max_attempts=1)
    foreign = harness.settings.model_copy(update={"run_root": harness.settings.run_root.parent / "unmounted"})
    own, harness.settings = harness.settings, foreign
    assert harness.supervisor(HONEST_PROGRAM).run() is None
    Heartbeat(harness.sessions, DeviceSlot("cpu", 0, "here"), foreign.run_root)._beat()
    with transaction(harness.sessions) as session:
        (worker,) = queries.workers(session)
        assert "not mounted" in (worker.problem or "")
    harness.settings = own
    assert (harness.job(queued).state, harness.job(queued).attempt) == (JobState.QUEUED, 0)

    running = harness.start(*HONEST_PROGRAM, "--epochs", "2", "--epoch-seconds", "0.3")
    harness.wait_until(lambda: harness.points(queued))
    own.run_root.rename(own.run_root.with_name("elsewhere"))
    own.run_root.mkdir()  # what is left of a file system that was unmounted
    assert running.result() is JobState.QUEUED
    job = harness.job(queued)
    assert (job.reason, job.failures, job.message) == (
        Reason.DRAINED, 0, "its worker does not see the store any more",
    )  # fmt: skip
