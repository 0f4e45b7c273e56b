"""One attempt after another against a real Postgres: children that succeed, and children that die."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import ArtifactRow
from jobs.record import history
from jobs.settings import Settings
from jobs.states import JobState, Reason, Wanted
from tests.integration.worker.supervision import FINGERPRINT, HONEST, QUICK, Bench, program


@pytest.fixture
def bench(settings: Settings, sessions: sessionmaker[Session]) -> Bench:
    return Bench(settings, sessions)


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

    def test_g11_pain_42_a_missing_artifact_is_a_failure(self, bench: Bench) -> None:
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
        running = bench.start(*program("silent"))
        environment = Path(f"/proc/{bench.child_of(job_id)}/environ").read_bytes().split(b"\0")
        assert {b"OMP_NUM_THREADS=1", b"MKL_NUM_THREADS=1", b"POLARS_MAX_THREADS=1", b"CUDA_VISIBLE_DEVICES="} <= set(
            environment
        )
        assert not [entry for entry in environment if entry.startswith(b"ATFT_")]
        bench.want(job_id, Wanted.CANCEL)
        running.end()

    def test_what_a_program_writes_for_a_moment_goes_with_the_attempt(self, bench: Bench) -> None:
        """Libraries leave files in TMPDIR, one of ours at every start; a killed program cannot clean up."""
        job_id = bench.submit()
        running = bench.start(*program("silent", "--litter"))
        scratch = bench.folder(job_id, 1) / "tmp"
        bench.until(lambda: scratch.exists() and any(scratch.iterdir()))
        bench.want(job_id, Wanted.CANCEL)
        running.end()
        assert not scratch.exists()


class TestDies:
    def test_a_killed_child_is_tried_again_and_goes_on_from_its_checkpoint(self, bench: Bench) -> None:
        job_id = bench.submit()
        argv = (*HONEST, "--epochs", "4", "--epoch-seconds", "0.4")
        running = bench.start(*argv)
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
        running = bench.start(*argv)
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

    def test_g8_pain_40_a_child_that_always_dies_is_tried_max_attempts_times(self, bench: Bench) -> None:
        job_id = bench.submit(max_attempts=2)
        assert bench.run(job_id, *program("crashing", "--signal", "SIGSEGV")) is JobState.QUEUED
        assert bench.run(job_id, *program("crashing", "--signal", "SIGSEGV")) is JobState.FAILED
        assert bench.run(job_id, *program("crashing")) is None
        attempt = bench.attempt(job_id, 2)
        assert attempt.signal == "SIGSEGV"
        assert "last words on stderr" in (attempt.log_tail or "")
        assert "last words on stderr" in (bench.job(job_id).message or "")

    def test_g8_pain_40_a_failure_with_a_reason_is_not_tried_again(self, bench: Bench) -> None:
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

    def test_nul_in_a_childs_words_costs_no_record(self, bench: Bench) -> None:
        """Postgres takes no NUL, and a program may print what stands in a user's file."""
        job_id = bench.submit()
        assert bench.run(job_id, *program("crashing", "--nul")) is JobState.FAILED
        assert bench.job(job_id).message == "column 'a\ufffdb'"
        assert (bench.attempt(job_id, 1).log_tail or "").endswith("x\ufffdy\n")
        with transaction(bench.sessions) as session:
            assert "a\ufffdb" in [event.body.get("message") for event in history.read_after(session, job_id, 0)]

    def test_pain_04_a_silent_child_is_stalled_and_leaves_its_stacks(self, bench: Bench) -> None:
        bench.timing = replace(QUICK, stall_seconds=0.5)
        job_id = bench.submit()
        assert bench.run(job_id, *program("silent")) is JobState.FAILED
        job = bench.job(job_id)
        assert job.reason is Reason.STALLED
        assert "no word" in (job.message or "")
        assert "in hang" in (bench.folder(job_id) / "log.txt").read_text()

    def test_pain_04_a_supervisor_that_was_frozen_does_not_blame_the_child(self, bench: Bench) -> None:
        """A paused container, or a SIGSTOP to all: nobody has heard the child, who may have been frozen too."""
        bench.timing = replace(QUICK, stall_seconds=3.0)
        job_id = bench.submit()
        supervisor = bench.supervisor((*HONEST, "--epochs", "3", "--epoch-seconds", "0.05"))
        frozen: list[bool] = []

        def freeze() -> bool:
            if not frozen and bench.folder(job_id).joinpath("checkpoints").exists():
                frozen.append(True)
                child = bench.child_of(job_id)
                os.kill(child, signal.SIGSTOP)
                time.sleep(3.3)
                os.kill(child, signal.SIGCONT)
            return False

        assert replace(supervisor, draining=freeze).run() is JobState.SUCCEEDED
        assert frozen

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

    def test_g11_pain_41_a_full_disk_at_the_start_is_said_so(self, bench: Bench) -> None:
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
