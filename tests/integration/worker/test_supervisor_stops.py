"""Children that are asked to stop, that another attempt replaces, and that build datasets."""

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
from tests.integration.worker.supervision import HONEST, Bench, alive, program


@pytest.fixture
def bench(settings: Settings, sessions: sessionmaker[Session]) -> Bench:
    return Bench(settings, sessions)


class TestIsAskedToStop:
    @pytest.mark.parametrize(
        ("name", "most_seconds"), [("obedient", 1.0), ("silent", 1.0), ("mute", 1.0), ("stubborn", 2.5)]
    )
    def test_g6_cancel_ends_the_group_before_the_job(self, bench: Bench, name: str, most_seconds: float) -> None:
        job_id = bench.submit()
        options = ["--epoch-seconds", "60"] if name == "obedient" else []
        running = bench.start(*program(name, *options))
        child = bench.child_of(job_id)
        if name == "stubborn":
            bench.until((bench.folder(job_id) / "grandchild").exists)
        bench.until(lambda: name == "mute" or bench.job(job_id).progress or name == "silent")
        asked = time.monotonic()
        bench.want(job_id, Wanted.CANCEL)
        while running.is_alive():
            if bench.job(job_id).state is JobState.CANCELLED:
                assert not alive(child)
        assert running.end() is JobState.CANCELLED
        assert time.monotonic() - asked < most_seconds + 3
        assert not alive(child)
        if name == "stubborn":
            assert not alive(int((bench.folder(job_id) / "grandchild").read_text()))
        assert bench.job(job_id).reason is Reason.USER

    def test_pause_saves_and_resume_goes_on(self, bench: Bench) -> None:
        job_id = bench.submit()
        argv = (*HONEST, "--epochs", "2", "--epoch-seconds", "0.5")
        running = bench.start(*argv)
        bench.until(lambda: bench.job(job_id).checkpoint)
        bench.want(job_id, Wanted.PAUSE)
        assert running.end() is JobState.PAUSED
        assert bench.run(job_id, *argv) is None
        bench.want(job_id, Wanted.RUN)
        assert bench.run(job_id, *argv) is JobState.SUCCEEDED
        assert bench.job(job_id).failures == 0
        assert len(bench.points(job_id)) == 2 * 3

    def test_prune(self, bench: Bench) -> None:
        job_id = bench.submit()
        running = bench.start(*program("obedient", "--epoch-seconds", "60"))
        bench.until(lambda: bench.job(job_id).progress)
        bench.want(job_id, Wanted.PRUNE)
        assert running.end() is JobState.PRUNED

    def test_a_drained_worker_requeues_what_it_saved_and_that_is_no_failure(self, bench: Bench) -> None:
        job_id = bench.submit(max_attempts=1)
        argv = (*HONEST, "--epochs", "2", "--epoch-seconds", "0.5")
        running = bench.start(*argv)
        bench.until(lambda: bench.job(job_id).progress)
        bench.drain = True
        assert running.end() is JobState.QUEUED
        job = bench.job(job_id)
        assert (job.reason, job.failures) == (Reason.DRAINED, 0)
        assert bench.hinted == [job_id]
        assert bench.run(job_id, *argv) is None
        bench.drain = False
        assert bench.run(job_id, *argv) is JobState.SUCCEEDED


class TestFencing:
    def test_a_superseded_supervisor_kills_its_child_and_writes_nothing(self, bench: Bench) -> None:
        job_id = bench.submit()
        running = bench.start(*program("stubborn"))
        child = bench.child_of(job_id)
        bench.until(lambda: bench.job(job_id).progress)
        with transaction(bench.sessions) as session:
            job = queries.get(session, job_id)
            lifecycle.requeue(session, job_id, 1, reason=Reason.WORKER_LOST, message="lost", counts_as_failure=True)
            assert job.attempt == 1
        assert running.end() is None
        assert not alive(child)
        assert bench.run(job_id, *HONEST) is JobState.SUCCEEDED
        with transaction(bench.sessions) as session:
            assert session.scalars(
                select(JobEvent.attempt).where(JobEvent.job_id == job_id, JobEvent.kind != "state")
            ).all()
            assert 1 not in session.scalars(select(Metric.attempt).where(Metric.job_id == job_id)).all()

    def test_the_lease_is_renewed_in_the_record_and_at_the_child(self, bench: Bench) -> None:
        settings = bench.settings.model_copy(update={"lease_seconds": 0.6})
        bench.settings = settings
        job_id = bench.submit()
        running = bench.start(*program("obedient", "--epoch-seconds", "60"))
        bench.until(lambda: bench.job(job_id).progress)
        time.sleep(1.5)
        with transaction(bench.sessions) as session:
            assert queries.expired(session, 10) == []
        assert len((bench.folder(job_id) / "renewals").read_text().splitlines()) >= 4
        bench.want(job_id, Wanted.CANCEL)
        running.end()


class TestDatasets:
    def submit(self, bench: Bench, spec: dict[str, object], files: dict[str, str] | None = None) -> UUID:
        with transaction(bench.sessions) as session:
            params = {"files": files} if files else None
            return submission.submit(
                session, kind=JobKind.DATASET, spec=spec, spec_digest="x", queue="cpu", params=params
            ).job.id

    @pytest.mark.parametrize("again", [False, True])
    def test_a_built_cache_is_moved_and_registered_with_the_job(self, bench: Bench, again: bool) -> None:
        for _ in range(2 if again else 1):
            (bench.settings.data_root / "panel.parquet").write_bytes(b"x")
            job_id = self.submit(bench, {"name": "d", "path": "panel.parquet"}, {"panel": "data:panel.parquet"})
            assert bench.run(job_id, *program("building")) is JobState.SUCCEEDED
        told = json.loads((bench.folder(job_id) / "spec.json").read_text())
        assert told["path"] == str(bench.settings.data_root / "panel.parquet")
        assert (bench.settings.caches_root / "beef" / "manifest.json").exists()
        assert not (bench.folder(job_id) / "cache").exists()
        with transaction(bench.sessions) as session:
            row = session.scalars(select(Dataset)).one()
            assert (row.name, row.version, row.fingerprint, row.path) == ("d", 1, "beef", "caches/beef")
            assert row.size_bytes > 0
        assert bench.job(job_id).dataset_fingerprint == "beef"

    @pytest.mark.parametrize("place", ["data:../secret", "data:link", "data:missing.csv", "upload:../../secret"])
    def test_a_file_outside_its_root_is_refused(self, bench: Bench, place: str) -> None:
        secret = bench.settings.data_root.parent / "secret"
        secret.write_text("s")
        (bench.settings.data_root / "link").symlink_to(secret)
        job_id = self.submit(bench, {"name": "d"}, {"panel": place})
        assert bench.run(job_id, *program("building")) is JobState.FAILED
        assert bench.job(job_id).reason is Reason.INVALID_PARAMS
