"""One attempt after another against a real Postgres, with children of every temper."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from atft.spec.job import TrainSpec
from jobs import history, store
from jobs.session import transaction
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason, Wanted
from jobs.tables import ArtifactRow, Attempt, Dataset, Job, JobEvent, Metric
from worker.slot import Slot
from worker.supervisor import Supervisor
from worker.watch import Timing

PROGRAMS = Path(__file__).parents[1] / "programs"
FINGERPRINT = "f00d"
QUICK = Timing(
    poll_seconds=0.02,
    look_seconds=0.05,
    startup_seconds=20,
    stall_seconds=20,
    grace_seconds=1.0,
    save_grace_seconds=2.0,
    retry_seconds=0.0,
)


def program(name: str, *options: str, imports: bool = False) -> tuple[str, ...]:
    flags = [] if imports else ["-SE"]
    return (sys.executable, *flags, str(PROGRAMS / f"{name}.py"), *options)


HONEST = program("obedient", "--prove", FINGERPRINT, imports=True)


@dataclass
class Bench:
    """A supervisor, its record, and jobs for it."""

    settings: Settings
    sessions: sessionmaker[Session]
    published: list[UUID] = field(default_factory=list)
    hinted: list[UUID] = field(default_factory=list)
    drain: bool = False
    timing: Timing = QUICK

    def __post_init__(self) -> None:
        (self.settings.caches_root / FINGERPRINT).mkdir(parents=True)

    def submit(self, *, max_attempts: int = 3, **trainer: object) -> UUID:
        spec = TrainSpec.model_validate({"dataset": "d", "trainer": trainer})
        with transaction(self.sessions) as session:
            return store.submit(
                session,
                kind=JobKind.TRAIN,
                spec=spec.model_dump(mode="json"),
                spec_digest=spec.digest(),
                queue="cpu",
                dataset="d",
                dataset_fingerprint=FINGERPRINT,
                max_attempts=max_attempts,
            ).job.id

    def supervisor(self, program: tuple[str, ...], index: int = 0) -> Supervisor:
        return Supervisor(
            settings=self.settings,
            sessions=self.sessions,
            slot=Slot("cpu", index, "here"),
            publish=self.published.append,
            hint=lambda _queue, job_id, _priority: self.hinted.append(job_id),
            draining=lambda: self.drain,
            program=program,
            timing=self.timing,
        )

    def run(self, job_id: UUID, *program: str) -> JobState | None:
        return self.supervisor(program).run(job_id)

    def start(self, job_id: UUID, *program: str) -> "Running":
        running = Running(self.supervisor(program), job_id)
        running.start()
        return running

    def job(self, job_id: UUID) -> Job:
        with transaction(self.sessions) as session:
            return store.get(session, job_id)

    def want(self, job_id: UUID, wanted: Wanted) -> None:
        with transaction(self.sessions) as session:
            store.want(session, job_id, wanted, by="test")

    def attempt(self, job_id: UUID, number: int) -> Attempt:
        with transaction(self.sessions) as session:
            return session.get_one(Attempt, (job_id, number))

    def points(self, job_id: UUID) -> list[tuple[str, int, float | None]]:
        with transaction(self.sessions) as session:
            query = select(Metric.name, Metric.step, Metric.value).where(Metric.job_id == job_id)
            return sorted((row.name, row.step, row.value) for row in session.execute(query))

    def folder(self, job_id: UUID, attempt: int = 1) -> Path:
        return self.settings.jobs_root / str(job_id) / str(attempt)

    def until(self, happened: Callable[[], object], seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    def child_of(self, job_id: UUID, attempt: int = 1) -> int:
        """The pid of the attempt's child, from the process table."""
        folder = str(self.folder(job_id, attempt)).encode()

        def find() -> list[int]:
            found = []
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    command = entry.read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if (
                    folder in command
                    and b"--events-fd" in command
                    and os.getsid(int(entry.parent.name)) == int(entry.parent.name)
                ):
                    found.append(int(entry.parent.name))
            return found

        self.until(find)
        return find()[0]


class Running(threading.Thread):
    def __init__(self, supervisor: Supervisor, job_id: UUID) -> None:
        super().__init__(daemon=True)
        self._supervisor = supervisor
        self._job_id = job_id
        self.state: JobState | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.state = self._supervisor.run(self._job_id)
        except BaseException as error:  # noqa: BLE001 - shown by `end`
            self.error = error

    def end(self, seconds: float = 20.0) -> JobState | None:
        self.join(seconds)
        assert not self.is_alive(), "the supervisor did not end in time"
        if self.error is not None:
            raise self.error
        return self.state


@pytest.fixture
def bench(settings: Settings, sessions: sessionmaker[Session]) -> Bench:
    return Bench(settings, sessions)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class TestSucceeds:
    def test_an_honest_child_ends_in_success_with_all_it_said(self, bench: Bench) -> None:
        job_id = bench.submit()
        assert bench.run(job_id, *HONEST) is JobState.SUCCEEDED
        job = bench.job(job_id)
        assert (job.state, job.reason, job.attempt, job.worker) == (JobState.SUCCEEDED, None, 1, "cpu-0@here")
        assert job.lease_until is None
        assert job.metrics["val/rank_ic"] == pytest.approx(1 / 3)
        assert job.metrics["val/icir"] is None
        assert job.evidence is not None
        assert [point for point in bench.points(job_id) if point[0] == "train/loss"] == [
            ("train/loss", 1, 0.5), ("train/loss", 2, 0.25), ("train/loss", 3, 0.125),
        ]  # fmt: skip
        assert job.checkpoint is not None
        assert job.checkpoint["path"] == "1/checkpoints/epoch-3"
        with transaction(bench.sessions) as session:
            events = history.read_after(session, job_id, 0)
            artifact = session.get_one(ArtifactRow, (job_id, "model.bin"))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert events[-1].body["state"] == "succeeded"
        assert any(event.kind == "log" and event.body["message"] == "done" for event in events)
        assert artifact.size_bytes == len(b"weights")
        assert (bench.settings.run_root / artifact.path).read_bytes() == b"weights"
        assert bench.attempt(job_id, 1).exit_code == 0
        assert bench.published

    def test_a_second_hint_finds_nothing(self, bench: Bench) -> None:
        job_id = bench.submit()
        assert bench.run(job_id, *HONEST) is JobState.SUCCEEDED
        assert bench.run(job_id, *HONEST) is None
        assert bench.job(job_id).attempt == 1

    def test_pain_42_a_missing_artifact_is_a_failure(self, bench: Bench) -> None:
        job_id = bench.submit()
        assert bench.run(job_id, *HONEST, "--without-artifact") is JobState.FAILED
        assert "'model.bin'" in (bench.job(job_id).message or "")

    def test_pain_09_another_optimizer_than_asked_is_a_failure(self, bench: Bench) -> None:
        lie = {
            "optimizer": {
                "class": "torch.optim.sgd.SGD",
                "state_keys": [],
                "param_groups": [{"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 1e-4}],
            }
        }
        job_id = bench.submit()
        assert bench.run(job_id, *HONEST, "--lie", json.dumps(lie)) is JobState.FAILED
        job = bench.job(job_id)
        assert job.reason is Reason.EVIDENCE_MISMATCH
        assert "optimizer.name" in (job.message or "")
        assert "SGD" in (job.message or "")

    def test_no_evidence_at_all_is_a_failure(self, bench: Bench) -> None:
        job_id = bench.submit()
        assert bench.run(job_id, *program("obedient")) is JobState.FAILED
        assert bench.job(job_id).reason is Reason.EVIDENCE_MISMATCH

    def test_pain_01_thread_limits_are_set_before_the_child_starts(self, bench: Bench) -> None:
        job_id = bench.submit()
        running = bench.start(job_id, *program("silent"))
        environment = Path(f"/proc/{bench.child_of(job_id)}/environ").read_bytes().split(b"\0")
        assert {b"OMP_NUM_THREADS=1", b"MKL_NUM_THREADS=1", b"POLARS_MAX_THREADS=1", b"CUDA_VISIBLE_DEVICES="} <= set(
            environment
        )
        assert not [entry for entry in environment if entry.startswith(b"ATFT_")]
        bench.want(job_id, Wanted.CANCEL)
        running.end()


class TestDies:
    def test_a_killed_child_is_tried_again_and_goes_on_from_its_checkpoint(self, bench: Bench) -> None:
        job_id = bench.submit()
        argv = (*HONEST, "--epochs", "4", "--epoch-seconds", "0.4")
        running = bench.start(job_id, *argv)
        bench.until(lambda: (bench.job(job_id).checkpoint or {}).get("epoch", 0) >= 2)
        os.kill(bench.child_of(job_id), signal.SIGKILL)
        assert running.end() is JobState.QUEUED
        job = bench.job(job_id)
        assert (job.reason, job.failures) == (Reason.WORKER_LOST, 1)
        assert "SIGKILL" in (job.message or "")
        assert bench.hinted == [job_id]
        assert bench.run(job_id, *argv) is JobState.SUCCEEDED
        resumed = bench.attempt(job_id, 2).resumed_from
        assert resumed is not None
        assert resumed["epoch"] >= 2
        assert len(bench.points(job_id)) == 4 * 3
        assert [point[2] for point in bench.points(job_id) if point[0] == "train/loss"] == [0.5, 0.25, 0.125, 0.0625]

    def test_a_checkpoint_that_is_gone_means_starting_over(self, bench: Bench) -> None:
        job_id = bench.submit()
        argv = (*HONEST, "--epochs", "3", "--epoch-seconds", "0.4")
        running = bench.start(job_id, *argv)
        bench.until(lambda: (bench.job(job_id).checkpoint or {}).get("epoch", 0) >= 1)
        os.kill(bench.child_of(job_id), signal.SIGKILL)
        assert running.end() is JobState.QUEUED
        shutil.rmtree(bench.folder(job_id) / "checkpoints")
        assert bench.run(job_id, *argv) is JobState.SUCCEEDED
        assert len(bench.points(job_id)) == 3 * 3
        with transaction(bench.sessions) as session:
            events = history.read_after(session, job_id, 0)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert any("starts over" in event.body.get("message", "") for event in events if event.kind == "log")

    def test_pain_40_a_child_that_always_dies_is_tried_max_attempts_times(self, bench: Bench) -> None:
        job_id = bench.submit(max_attempts=2)
        assert bench.run(job_id, *program("crashing", "--signal", "SIGSEGV")) is JobState.QUEUED
        assert bench.run(job_id, *program("crashing", "--signal", "SIGSEGV")) is JobState.FAILED
        assert bench.run(job_id, *program("crashing")) is None
        attempt = bench.attempt(job_id, 2)
        assert attempt.signal == "SIGSEGV"
        assert "last words on stderr" in (attempt.log_tail or "")
        assert "last words on stderr" in (bench.job(job_id).message or "")

    def test_pain_40_a_failure_with_a_reason_is_not_tried_again(self, bench: Bench) -> None:
        job_id = bench.submit()
        assert bench.run(job_id, *program("crashing", "--word", "nan_loss", "--code", "1")) is JobState.FAILED
        job = bench.job(job_id)
        assert (job.reason, job.message, job.attempt) == (Reason.NAN_LOSS, "it said so", 1)

    def test_exit_0_without_a_word_is_a_failure(self, bench: Bench) -> None:
        job_id = bench.submit()
        assert bench.run(job_id, *program("crashing", "--code", "0")) is JobState.FAILED
        assert bench.job(job_id).reason is Reason.INTERNAL

    def test_garbage_is_a_failure_that_shows_it(self, bench: Bench) -> None:
        job_id = bench.submit()
        assert bench.run(job_id, *program("garbage", "--line", "loss: 0.3")) is JobState.FAILED
        job = bench.job(job_id)
        assert job.reason is Reason.INTERNAL
        assert "loss: 0.3" in (job.message or "")

    def test_pain_04_a_silent_child_is_stalled_and_leaves_its_stacks(self, bench: Bench) -> None:
        bench.timing = replace(QUICK, stall_seconds=0.5)
        job_id = bench.submit()
        assert bench.run(job_id, *program("silent")) is JobState.FAILED
        job = bench.job(job_id)
        assert job.reason is Reason.STALLED
        assert "no word" in (job.message or "")
        assert "in hang" in (bench.folder(job_id) / "log.txt").read_text()

    def test_a_child_that_never_says_anything_is_stalled(self, bench: Bench) -> None:
        bench.timing = replace(QUICK, startup_seconds=0.5)
        job_id = bench.submit()
        assert bench.run(job_id, *program("mute")) is JobState.FAILED
        assert bench.job(job_id).reason is Reason.STALLED

    def test_pain_08_a_time_budget_that_ended_is_no_success(self, bench: Bench) -> None:
        job_id = bench.submit(timeout_seconds=0.5)
        assert bench.run(job_id, *program("obedient", "--epoch-seconds", "60")) is JobState.FAILED
        assert bench.job(job_id).reason is Reason.TIMEOUT_EXEC

    def test_a_cache_that_is_gone_is_said_so(self, bench: Bench) -> None:
        (bench.settings.caches_root / FINGERPRINT).rmdir()
        job_id = bench.submit()
        assert bench.run(job_id, *HONEST) is JobState.FAILED
        assert bench.job(job_id).reason is Reason.DATA_CHANGED


class TestFullDisk:
    """/dev/full takes nothing: what is linked there meets a full disk."""

    def folder(self, bench: Bench, job_id: UUID) -> Path:
        folder = bench.folder(job_id)
        folder.mkdir(parents=True)
        return folder

    def test_pain_41_a_full_disk_at_the_start_is_said_so(self, bench: Bench) -> None:
        job_id = bench.submit()
        (self.folder(bench, job_id) / "spec.json").symlink_to("/dev/full")
        assert bench.run(job_id, *HONEST) is JobState.FAILED
        assert bench.job(job_id).reason is Reason.DISK_FULL

    def test_pain_41_a_log_that_cannot_grow_does_not_stop_the_run(self, bench: Bench) -> None:
        job_id = bench.submit()
        (self.folder(bench, job_id) / "log.txt").symlink_to("/dev/full")
        assert bench.run(job_id, *HONEST) is JobState.SUCCEEDED

    def test_pain_41_the_programs_own_word_for_it_is_final(self, bench: Bench) -> None:
        job_id = bench.submit()
        assert bench.run(job_id, *program("crashing", "--word", "disk_full", "--code", "1")) is JobState.FAILED
        assert bench.job(job_id).reason is Reason.DISK_FULL


class TestIsAskedToStop:
    @pytest.mark.parametrize(
        ("name", "most_seconds"), [("obedient", 1.0), ("silent", 1.0), ("mute", 1.0), ("stubborn", 2.5)]
    )
    def test_cancel_ends_the_group_before_the_job(self, bench: Bench, name: str, most_seconds: float) -> None:
        job_id = bench.submit()
        options = ["--epoch-seconds", "60"] if name == "obedient" else []
        running = bench.start(job_id, *program(name, *options))
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
        running = bench.start(job_id, *argv)
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
        running = bench.start(job_id, *program("obedient", "--epoch-seconds", "60"))
        bench.until(lambda: bench.job(job_id).progress)
        bench.want(job_id, Wanted.PRUNE)
        assert running.end() is JobState.PRUNED

    def test_a_drained_worker_requeues_what_it_saved_and_that_is_no_failure(self, bench: Bench) -> None:
        job_id = bench.submit(max_attempts=1)
        argv = (*HONEST, "--epochs", "2", "--epoch-seconds", "0.5")
        running = bench.start(job_id, *argv)
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
        running = bench.start(job_id, *program("stubborn"))
        child = bench.child_of(job_id)
        bench.until(lambda: bench.job(job_id).progress)
        with transaction(bench.sessions) as session:
            job = store.get(session, job_id)
            store.requeue(session, job_id, 1, reason=Reason.WORKER_LOST, message="lost", counts_as_failure=True)
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
        running = bench.start(job_id, *program("obedient", "--epoch-seconds", "60"))
        bench.until(lambda: bench.job(job_id).progress)
        time.sleep(1.5)
        with transaction(bench.sessions) as session:
            assert store.expired(session, 10) == []
        assert len((bench.folder(job_id) / "renewals").read_text().splitlines()) >= 4
        bench.want(job_id, Wanted.CANCEL)
        running.end()


class TestDatasets:
    def submit(self, bench: Bench, spec: dict[str, object], files: dict[str, str] | None = None) -> UUID:
        with transaction(bench.sessions) as session:
            params = {"files": files} if files else None
            return store.submit(
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
