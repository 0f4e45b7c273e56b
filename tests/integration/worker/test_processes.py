"""Real worker processes, a real broker, real training: after each failure the result equals that of an undisturbed
run."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psutil
import pytest
import redis
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from atft.events import Metrics, parse
from atft.spec.job import TrainSpec
from jobs.broker.queue import HintSender
from jobs.db.session import transaction
from jobs.db.tables import ArtifactRow, Job, Metric
from jobs.embedded import servers as embedded
from jobs.record import catalog, lifecycle, queries, submission
from jobs.settings import Settings
from jobs.states import TERMINAL, JobKind, JobState, Reason, Wanted

ROOT = Path(__file__).parents[3]
PANEL = {"num_codes": 12, "num_days": 160}
TRAIN = TrainSpec.model_validate(
    {
        "dataset": "d",
        "data": {"window": 8, "horizons": [1, 5], "min_names": 5},
        "split": {"val_days": 20, "test_days": 20, "embargo_days": 6},
        "model": {"hidden_size": 8, "gat_heads": 2, "attention_heads": 2, "gat_layers": 1, "fan_top_k": 2},
        "graph": {"correlation_window": 20, "neighbours": 3},
        "optimizer": {"name": "adabelief"},
        "trainer": {"max_epochs": 20, "batch_size": 100, "early_stopping": None},
        "baselines": False,
    }
)
TIMINGS = ("time/", "system/")  # these series differ between equal runs
Points = dict[tuple[str, int], float | None]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("panel")
    (folder / "spec.json").write_text(json.dumps({"name": "d", "planted": PANEL}))
    command = [sys.executable, "-m", "atft", "build", str(folder / "spec.json"), "--out", str(folder / "cache")]
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=120)
    return folder / "cache"


@pytest.fixture(scope="session")
def reference_points(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Points:
    """The metrics of a run without any service, under the same thread limits, which decide the last digits."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "spec.json").write_text(TRAIN.model_dump_json())
    command = [sys.executable, "-m", "atft", "run", str(folder / "spec.json"), "--cache", str(cache), "--out"]
    done = subprocess.run(
        [*command, str(folder)],
        env=Settings().child_environment(1, None) | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        timeout=240,
        text=True,
    )
    points: Points = {}
    for event in map(parse, done.stdout.splitlines()):
        if isinstance(event, Metrics) and event.source is None:
            for name, value in event.values.items():
                points.setdefault((name, event.step), value)
    return points


@dataclass
class Service:
    settings: Settings
    sessions: sessionmaker[Session]
    fingerprint: str
    stack: ExitStack = field(default_factory=ExitStack)

    def worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        settings = self.settings
        log = self.stack.enter_context((settings.run_root / "workers.log").open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", *arguments],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env=environment(
                ATFT_DATABASE_URL=settings.database_url.get_secret_value(),
                ATFT_REDIS_URL=settings.redis_url.get_secret_value(),
                ATFT_DATA_ROOT=str(settings.data_root),
                ATFT_RUN_ROOT=str(settings.run_root),
                ATFT_LEASE_SECONDS=str(settings.lease_seconds),
                ATFT_SWEEP_SECONDS=str(settings.sweep_seconds),
            ),
        )
        self.stack.callback(self.end, process)
        return process

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.kill()
        process.wait(10)

    def submit(
        self, kind: JobKind = JobKind.TRAIN, spec: dict[str, object] | None = None, *, hint: bool = True
    ) -> UUID:
        train = kind is JobKind.TRAIN
        with transaction(self.sessions) as session:
            job = submission.submit(
                session,
                submission.NewJob(
                    kind=kind,
                    spec=spec or TRAIN.model_dump(mode="json"),
                    spec_digest="x",
                    queue="cpu",
                    dataset="d" if train else None,
                    dataset_fingerprint=self.fingerprint if train else None,
                ),
            ).job
        if hint:
            sender = HintSender(self.settings)
            assert sender.send("cpu", job.id, 5)
            sender.close()
        return job.id

    def job(self, job_id: UUID) -> Job:
        with transaction(self.sessions) as session:
            return queries.get(session, job_id)

    def wait_until(self, condition: Callable[[], object], seconds: float = 180.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.settings.run_root / "workers.log").read_text()[-3000:]
            time.sleep(0.05)

    def wait_for_end(self, job_id: UUID) -> Job:
        self.wait_until(lambda: self.job(job_id).state in TERMINAL)
        return self.job(job_id)

    def wait_until_half_trained(self, job_id: UUID) -> None:
        """Wait until some epochs are recorded while others are still to come."""
        self.wait_until(lambda: (self.job(job_id).checkpoint or {}).get("epoch", 0) >= 3)
        assert self.job(job_id).state is JobState.RUNNING

    def points(self, job_id: UUID) -> Points:
        with transaction(self.sessions) as session:
            query = select(Metric.name, Metric.step, Metric.value).where(Metric.job_id == job_id)
            return {(row.name, row.step): row.value for row in session.execute(query)}


@pytest.fixture
def service(settings: Settings, sessions: sessionmaker[Session], cache: Path) -> Iterator[Service]:
    fingerprint = json.loads((cache / "manifest.json").read_text())["fingerprint"]
    shutil.copytree(cache, settings.caches_root / fingerprint)
    service = Service(settings, sessions, fingerprint)
    with service.stack:
        yield service


def assert_same_numbers(points: Points, reference: Points) -> None:
    assert {key: value for key, value in points.items() if not key[0].startswith(TIMINGS)} == {
        key: value for key, value in reference.items() if not key[0].startswith(TIMINGS)
    }


def test_a_hinted_job_succeeds_with_evidence_and_artifacts(service: Service, reference_points: Points) -> None:
    worker = service.worker()
    built = service.wait_for_end(service.submit(JobKind.DATASET, {"name": "d", "planted": PANEL}))
    assert (built.state, built.dataset_fingerprint) == (JobState.SUCCEEDED, service.fingerprint)
    with transaction(service.sessions) as session:
        dataset = catalog.dataset(session, "d@1")
    assert dataset.profile
    assert dataset.manifest["fingerprint"] == service.fingerprint
    job_id = service.submit()
    done = service.wait_for_end(job_id)
    assert (done.state, done.message) == (JobState.SUCCEEDED, None)
    assert_same_numbers(service.points(job_id), reference_points)
    evidence = done.evidence
    assert evidence is not None
    assert "AdaBelief" in evidence["optimizer"]["class"]
    assert evidence["threads"]["env"]["OMP_NUM_THREADS"] == "1"
    with transaction(service.sessions) as session:
        artifacts = session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job_id)).all()
        seen = {row.name: row for row in queries.workers(session)}
    assert {"best.safetensors", "predictions.parquet"} <= {artifact.name for artifact in artifacts}
    for artifact in artifacts:
        assert (service.settings.run_root / artifact.path).stat().st_size == artifact.size_bytes
    assert [(row.queue, row.device, row.pid) for row in seen.values()] == [("cpu", "cpu", worker.pid)]
    worker.terminate()
    assert worker.wait(20) == 0


def test_g7_a_terminated_worker_saves_and_another_resumes(service: Service, reference_points: Points) -> None:
    first = service.worker()
    job_id = service.submit()
    service.wait_until_half_trained(job_id)
    terminated_at = time.monotonic()
    first.terminate()
    assert first.wait(25) == 0
    assert time.monotonic() - terminated_at < 20
    job = service.job(job_id)
    assert (job.state, job.reason, job.failures) == (JobState.QUEUED, Reason.DRAINED, 0)
    service.worker()
    done = service.wait_for_end(job_id)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
    assert_same_numbers(service.points(job_id), reference_points)


@pytest.mark.parametrize("victim", ["main process", "pool process"])
def test_g4_a_killed_worker_leaves_nothing_behind(service: Service, reference_points: Points, victim: str) -> None:
    service.worker("--control")
    first = service.worker()
    job_id = service.submit()
    service.wait_until_half_trained(job_id)
    family = psutil.Process(first.pid).children(recursive=True)
    assert len(family) >= 2  # the pool process and the program
    if victim == "main process":
        first.kill()
        first.wait(10)
        service.worker("--device", "1")
    else:  # the main process starts another one
        pool = next(
            process for process in family if process.parent() == psutil.Process(first.pid) and process.children()
        )
        family = [pool, *pool.children(recursive=True)]
        pool.kill()
    _, left = psutil.wait_procs(family, timeout=10)
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
    with redis.Redis.from_url(service.settings.redis_url.get_secret_value()) as broker:
        broker.flushall()
    done = service.wait_for_end(job_id)
    assert (done.state, done.attempt, done.failures) == (JobState.SUCCEEDED, 2, 1)
    assert_same_numbers(service.points(job_id), reference_points)


def test_a_killed_broker_does_not_disturb_a_running_job(
    service: Service, servers: embedded.EmbeddedServers, reference_points: Points
) -> None:
    service.worker("--control")
    service.worker()
    job_id = service.submit()
    service.wait_until_half_trained(job_id)
    assert servers.valkey.process is not None
    servers.valkey.process.kill()
    servers.valkey.process.wait(10)
    epoch = (service.job(job_id).checkpoint or {})["epoch"]
    service.wait_until(lambda: (service.job(job_id).checkpoint or {})["epoch"] > epoch)  # it trains without a broker
    assert servers.check() == [servers.valkey.name]
    done = service.wait_for_end(job_id)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 1)
    assert_same_numbers(service.points(job_id), reference_points)
    later = service.submit(JobKind.DATASET, {"name": "d", "planted": PANEL})
    assert service.wait_for_end(later).state is JobState.SUCCEEDED


def test_pain_05_cancel_ends_the_child_of_its_own_job_only(service: Service) -> None:
    service.worker()
    service.worker("--device", "1")
    first, second = service.submit(), service.submit()
    service.wait_until_half_trained(first)
    with transaction(service.sessions) as session:
        lifecycle.want(session, first, Wanted.CANCEL, by="test")
    assert service.wait_for_end(first).state is JobState.CANCELLED
    assert service.wait_for_end(second).state is JobState.SUCCEEDED


def test_g1_a_lost_hint_is_sent_again(service: Service) -> None:
    service.worker("--control")
    service.worker()
    job_id = service.submit(JobKind.DATASET, {"name": "d", "planted": PANEL}, hint=False)
    assert service.wait_for_end(job_id).state is JobState.SUCCEEDED


def test_pain_05_a_device_slot_has_one_worker(service: Service) -> None:
    first = psutil.Process(service.worker("--queue", "gpu", "--device", "0").pid)
    service.wait_until(lambda: "celery" in first.cmdline())  # it execs Celery once it holds the lock
    second = service.worker("--queue", "gpu", "--device", "0")
    assert second.wait(30) == 2
