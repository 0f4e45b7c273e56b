"""Children that get a stop request, that another attempt supersedes, and that build datasets."""

import json
import time
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import Dataset, JobEvent, Metric
from jobs.record import lifecycle, queries, submission
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason, Wanted
from tests.integration.worker.supervisor_harness import HONEST_PROGRAM, SupervisorHarness, is_alive, program


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> SupervisorHarness:
    return SupervisorHarness(settings, sessions)


class TestStopRequests:
    @pytest.mark.parametrize("name", ["obedient", "silent", "mute", "stubborn"])
    def test_g6_cancel_ends_the_group_before_the_job(self, harness: SupervisorHarness, name: str) -> None:
        job_id = harness.submit()
        options = ["--epoch-seconds", "60"] if name == "obedient" else []
        running = harness.start(*program(name, *options))
        child = harness.child_of(job_id)
        if name == "stubborn":
            harness.wait_until((harness.folder(job_id) / "grandchild").exists)
        harness.wait_until(lambda: name == "mute" or harness.job(job_id).progress or name == "silent")
        started = time.monotonic()
        harness.want(job_id, Wanted.CANCEL)
        while running.is_alive():
            if harness.job(job_id).state is JobState.CANCELLED:
                assert not is_alive(child)
        assert running.result() is JobState.CANCELLED
        assert time.monotonic() - started < 20  # none of them would have ended within a minute
        assert not is_alive(child)
        if name == "stubborn":
            assert not is_alive(int((harness.folder(job_id) / "grandchild").read_text()))
        assert harness.job(job_id).reason is Reason.USER

    def test_pause_saves_a_checkpoint_and_resume_continues_from_it(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        argv = (*HONEST_PROGRAM, "--epochs", "8", "--epoch-seconds", "0.05")
        running = harness.start(*argv, "--epoch-seconds", "2")  # still training when the stop reaches it
        harness.wait_until(lambda: harness.job(job_id).checkpoint)
        harness.want(job_id, Wanted.PAUSE)
        assert running.result() is JobState.PAUSED
        assert harness.run(job_id, *argv) is None
        harness.want(job_id, Wanted.RUN)
        assert harness.run(job_id, *argv) is JobState.SUCCEEDED
        assert harness.job(job_id).failures == 0
        assert len(harness.points(job_id)) == 8 * 3

    def test_prune(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        running = harness.start(*program("obedient", "--epoch-seconds", "60"))
        harness.wait_until(lambda: harness.job(job_id).progress)
        harness.want(job_id, Wanted.PRUNE)
        assert running.result() is JobState.PRUNED

    def test_a_drained_worker_requeues_its_job_without_a_failure(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit(max_attempts=1)
        argv = (*HONEST_PROGRAM, "--epochs", "8", "--epoch-seconds", "0.05")
        running = harness.start(*argv, "--epoch-seconds", "2")  # still training when the stop reaches it
        harness.wait_until(lambda: harness.job(job_id).progress)
        harness.drain = True
        assert running.result() is JobState.QUEUED
        job = harness.job(job_id)
        assert (job.reason, job.failures) == (Reason.DRAINED, 0)
        assert harness.hinted == [job_id]
        assert harness.run(job_id, *argv) is None
        harness.drain = False
        assert harness.run(job_id, *argv) is JobState.SUCCEEDED


class TestFencing:
    def test_a_superseded_supervisor_kills_its_child_and_writes_nothing(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        running = harness.start(*program("stubborn"))
        child = harness.child_of(job_id)
        harness.wait_until(lambda: harness.job(job_id).progress)
        with transaction(harness.sessions) as session:
            job = queries.get(session, job_id)
            lifecycle.requeue(
                session,
                job_id,
                1,
                lifecycle.AttemptEnd(reason=Reason.WORKER_LOST, message="lost"),
                counts_as_failure=True,
            )
            assert job.attempt == 1
        assert running.result() is None
        assert not is_alive(child)
        assert harness.run(job_id, *HONEST_PROGRAM) is JobState.SUCCEEDED
        with transaction(harness.sessions) as session:
            assert session.scalars(
                select(JobEvent.attempt).where(JobEvent.job_id == job_id, JobEvent.kind != "state")
            ).all()
            assert 1 not in session.scalars(select(Metric.attempt).where(Metric.job_id == job_id)).all()

    def test_the_lease_is_renewed_in_the_record_and_at_the_child(self, harness: SupervisorHarness) -> None:
        settings = harness.settings.model_copy(update={"lease_seconds": 0.6})
        harness.settings = settings
        job_id = harness.submit()
        running = harness.start(*program("obedient", "--epoch-seconds", "60"))
        harness.wait_until(lambda: harness.job(job_id).progress)
        renewals = harness.folder(job_id) / "renewals"
        harness.wait_until(lambda: renewals.exists() and len(renewals.read_text().splitlines()) >= 6)  # 2 leases
        with transaction(harness.sessions) as session:
            assert queries.expired(session, 10) == []
        harness.want(job_id, Wanted.CANCEL)
        running.result()


class TestDatasets:
    def submit(self, harness: SupervisorHarness, spec: dict[str, object], files: dict[str, str] | None = None) -> UUID:
        with transaction(harness.sessions) as session:
            params = {"files": files} if files else None
            return submission.submit(
                session, submission.NewJob(kind=JobKind.DATASET, spec=spec, spec_digest="x", queue="cpu", params=params)
            ).job.id

    @pytest.mark.parametrize("again", [False, True])
    def test_a_built_cache_is_moved_and_registered_with_the_job(self, harness: SupervisorHarness, again: bool) -> None:
        for _ in range(2 if again else 1):
            (harness.settings.data_root / "panel.parquet").write_bytes(b"x")
            job_id = self.submit(harness, {"name": "d", "path": "panel.parquet"}, {"panel": "data:panel.parquet"})
            assert harness.run(job_id, *program("building")) is JobState.SUCCEEDED
        spec = json.loads((harness.folder(job_id) / "spec.json").read_text())
        assert spec["path"] == str(harness.settings.data_root / "panel.parquet")
        assert (harness.settings.caches_root / "beef" / "manifest.json").exists()
        assert not (harness.folder(job_id) / "cache").exists()
        with transaction(harness.sessions) as session:
            row = session.scalars(select(Dataset)).one()
            assert (row.name, row.version, row.fingerprint, row.path) == ("d", 1, "beef", "caches/beef")
            assert row.size_bytes > 0
        assert harness.job(job_id).dataset_fingerprint == "beef"

    @pytest.mark.parametrize("panel", ["data:../secret", "data:link", "data:missing.csv", "upload:../../secret"])
    def test_a_file_outside_its_root_is_refused(self, harness: SupervisorHarness, panel: str) -> None:
        secret = harness.settings.data_root.parent / "secret"
        secret.write_text("s")
        (harness.settings.data_root / "link").symlink_to(secret)
        job_id = self.submit(harness, {"name": "d"}, {"panel": panel})
        assert harness.run(job_id, *program("building")) is JobState.FAILED
        assert harness.job(job_id).reason is Reason.INVALID_PARAMS
