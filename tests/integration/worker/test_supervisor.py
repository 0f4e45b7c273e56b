"""Attempts against a real Postgres: children that succeed, and children that crash."""

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
from tests.integration.worker.supervisor_harness import (
    FINGERPRINT,
    HONEST_PROGRAM,
    SHORT_TIMING,
    SupervisorHarness,
    program,
)


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> SupervisorHarness:
    return SupervisorHarness(settings, sessions)


class TestSuccess:
    def test_a_successful_child_has_all_its_events_recorded(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        assert harness.run(job_id, *HONEST_PROGRAM) is JobState.SUCCEEDED
        job = harness.job(job_id)
        assert (job.state, job.reason, job.attempt, job.worker) == (JobState.SUCCEEDED, None, 1, "cpu-0@here")
        assert job.lease_until is None
        assert job.metrics["val/rank_ic"] == pytest.approx(1 / 3)
        assert job.metrics["val/icir"] is None
        assert job.evidence is not None
        assert [point for point in harness.points(job_id) if point[0] == "train/loss"] == [
            ("train/loss", 1, 0.5), ("train/loss", 2, 0.25), ("train/loss", 3, 0.125),
        ]  # fmt: skip
        assert job.checkpoint is not None
        assert job.checkpoint["path"] == "1/checkpoints/epoch-3"
        with transaction(harness.sessions) as session:
            events = history.read_after(session, job_id, 0)
            artifact = session.get_one(ArtifactRow, (job_id, "model.bin"))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert events[-1].body["state"] == "succeeded"
        assert any(event.kind == "log" and event.body["message"] == "done" for event in events)
        assert artifact.size_bytes == len(b"weights")
        assert (harness.settings.run_root / artifact.path).read_bytes() == b"weights"
        assert harness.attempt(job_id, 1).exit_code == 0
        assert harness.published

    def test_a_second_hint_finds_nothing(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        assert harness.run(job_id, *HONEST_PROGRAM) is JobState.SUCCEEDED
        assert harness.run(job_id, *HONEST_PROGRAM) is None
        assert harness.job(job_id).attempt == 1

    def test_g11_pain_42_a_missing_artifact_is_a_failure(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        assert harness.run(job_id, *HONEST_PROGRAM, "--without-artifact") is JobState.FAILED
        assert "'model.bin'" in (harness.job(job_id).message or "")

    def test_pain_09_another_optimizer_than_requested_is_a_failure(self, harness: SupervisorHarness) -> None:
        group = {"lr": 5e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 1e-4, "parameters": 1}
        sgd = {"class": "torch.optim.sgd.SGD", "module": "torch.optim.sgd", "version": "2", "state_keys": []}
        lie = {"optimizer": sgd | {"param_groups": [group]}}
        job_id = harness.submit()
        assert harness.run(job_id, *HONEST_PROGRAM, "--evidence-override", json.dumps(lie)) is JobState.FAILED
        job = harness.job(job_id)
        assert job.reason is Reason.EVIDENCE_MISMATCH
        assert "optimizer.class" in (job.message or "")
        assert "SGD" in (job.message or "")

    def test_no_evidence_at_all_is_a_failure(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        assert harness.run(job_id, *program("obedient")) is JobState.FAILED
        assert harness.job(job_id).reason is Reason.EVIDENCE_MISMATCH

    def test_pain_01_thread_limits_are_set_before_the_child_starts(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        running = harness.start(*program("silent"))
        environment = Path(f"/proc/{harness.child_of(job_id)}/environ").read_bytes().split(b"\0")
        assert {b"OMP_NUM_THREADS=1", b"MKL_NUM_THREADS=1", b"POLARS_MAX_THREADS=1", b"CUDA_VISIBLE_DEVICES="} <= set(
            environment
        )
        assert not [entry for entry in environment if entry.startswith(b"ATFT_")]
        harness.want(job_id, Wanted.CANCEL)
        running.result()

    def test_temporary_files_are_removed_with_the_attempt(self, harness: SupervisorHarness) -> None:
        """Libraries leave files in TMPDIR at every start; a killed program cannot remove them."""
        job_id = harness.submit()
        running = harness.start(*program("silent", "--leave-temporary-file"))
        scratch_folder = harness.folder(job_id, 1) / "tmp"
        harness.wait_until(lambda: scratch_folder.exists() and any(scratch_folder.iterdir()))
        harness.want(job_id, Wanted.CANCEL)
        running.result()
        assert not scratch_folder.exists()


def kill_after(harness: SupervisorHarness, job_id: UUID, argv: tuple[str, ...], *, epoch: int) -> None:
    """Run an attempt and kill its child once the checkpoint of `epoch` is on record; the job is queued again."""
    running = harness.start(*argv)
    harness.wait_until(lambda: (harness.job(job_id).checkpoint or {}).get("epoch", 0) >= epoch)
    os.kill(harness.child_of(job_id), signal.SIGKILL)
    assert running.result() is JobState.QUEUED


class TestFailure:
    def test_a_killed_child_is_retried_from_its_checkpoint(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        argv = (*HONEST_PROGRAM, "--epochs", "4", "--epoch-seconds", "0.4")
        kill_after(harness, job_id, argv, epoch=2)
        job = harness.job(job_id)
        assert (job.reason, job.failures) == (Reason.WORKER_LOST, 1)
        assert "SIGKILL" in (job.message or "")
        assert harness.hinted == [job_id]
        assert harness.run(job_id, *argv) is JobState.SUCCEEDED
        resumed = harness.attempt(job_id, 2).resumed_from
        assert resumed is not None
        assert resumed["epoch"] >= 2
        assert len(harness.points(job_id)) == 4 * 3
        assert [point[2] for point in harness.points(job_id) if point[0] == "train/loss"] == [0.5, 0.25, 0.125, 0.0625]

    def test_a_missing_checkpoint_means_starting_over(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        argv = (*HONEST_PROGRAM, "--epochs", "3", "--epoch-seconds", "0.4")
        kill_after(harness, job_id, argv, epoch=1)
        shutil.rmtree(harness.folder(job_id) / "checkpoints")
        assert harness.run(job_id, *argv) is JobState.SUCCEEDED
        assert len(harness.points(job_id)) == 3 * 3
        with transaction(harness.sessions) as session:
            events = history.read_after(session, job_id, 0)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert any("starts over" in event.body.get("message", "") for event in events if event.kind == "log")

    def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        argv = (*HONEST_PROGRAM, "--epochs", "3", "--epoch-seconds", "0.3")
        kill_after(harness, job_id, argv, epoch=2)
        checkpoint = harness.job(job_id).checkpoint
        assert checkpoint is not None
        state = harness.settings.jobs_root / str(job_id) / checkpoint["path"] / "state.json"
        state.write_bytes(bytes([state.read_bytes()[0] ^ 1, *state.read_bytes()[1:]]))
        assert harness.run(job_id, *argv) is JobState.SUCCEEDED
        assert len(harness.points(job_id)) == 3 * 3
        resumed = harness.attempt(job_id, 2).resumed_from
        assert resumed is not None
        assert resumed["epoch"] == checkpoint["epoch"] - 1
        with transaction(harness.sessions) as session:
            logged = [event.body["message"] for event in history.read_after(session, job_id, 0) if event.kind == "log"]
        assert any("is missing or damaged: the run goes on from 1/checkpoints/" in message for message in logged)

    def test_g8_pain_40_a_child_that_always_crashes_runs_max_attempts_times(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit(max_attempts=2)
        assert harness.run(job_id, *program("crashing", "--signal", "SIGSEGV")) is JobState.QUEUED
        assert harness.run(job_id, *program("crashing", "--signal", "SIGSEGV")) is JobState.FAILED
        assert harness.run(job_id, *program("crashing")) is None
        attempt = harness.attempt(job_id, 2)
        assert attempt.signal == "SIGSEGV"
        assert "last words on stderr" in (attempt.log_tail or "")
        assert "last words on stderr" in (harness.job(job_id).message or "")

    def test_g8_pain_40_a_failure_with_a_reason_is_not_retried(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        assert (
            harness.run(job_id, *program("crashing", "--failed-reason", "nan_loss", "--code", "1")) is JobState.FAILED
        )
        job = harness.job(job_id)
        assert (job.reason, job.message, job.attempt) == (Reason.NAN_LOSS, "reported by the child", 1)

    def test_a_panic_of_native_code_that_aborts_is_one_attempt(self, harness: SupervisorHarness) -> None:
        words = (
            "thread 'x' panicked at crates/a.rs:1:2:\nnot yet implemented: Decimal256\nnote: run with RUST_BACKTRACE=1"
        )
        job_id = harness.submit()
        crash = program("crashing", "--signal", "SIGABRT", "--last-words", words)
        assert harness.run(job_id, *crash) is JobState.FAILED
        job = harness.job(job_id)
        assert (job.reason, job.attempt) == (Reason.INVALID_PARAMS, 1)
        assert (job.message or "").endswith(": not yet implemented: Decimal256")

    def test_exit_0_without_a_final_event_is_a_failure(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        assert harness.run(job_id, *program("crashing", "--code", "0")) is JobState.FAILED
        assert harness.job(job_id).reason is Reason.INTERNAL

    def test_invalid_output_is_a_failure_whose_message_quotes_it(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        assert harness.run(job_id, *program("garbage", "--line", "loss: 0.3")) is JobState.FAILED
        job = harness.job(job_id)
        assert job.reason is Reason.INTERNAL
        assert "loss: 0.3" in (job.message or "")

    def test_nul_characters_in_events_are_replaced(self, harness: SupervisorHarness) -> None:
        """Postgres stores no NUL character, and a program may print the content of a user's file."""
        job_id = harness.submit()
        assert harness.run(job_id, *program("crashing", "--nul")) is JobState.FAILED
        assert harness.job(job_id).message == "column 'a\ufffdb'"
        assert (harness.attempt(job_id, 1).log_tail or "").endswith("x\ufffdy\n")
        with transaction(harness.sessions) as session:
            assert "a\ufffdb" in [event.body.get("message") for event in history.read_after(session, job_id, 0)]

    def test_pain_04_a_silent_child_is_stalled_and_leaves_its_stacks(self, harness: SupervisorHarness) -> None:
        harness.timing = replace(SHORT_TIMING, stall_seconds=0.5)
        job_id = harness.submit()
        assert harness.run(job_id, *program("silent")) is JobState.FAILED
        job = harness.job(job_id)
        assert job.reason is Reason.STALLED
        assert "no event" in (job.message or "")
        assert "in hang" in (harness.folder(job_id) / "log.txt").read_text()

    def test_pain_04_a_supervisor_that_was_frozen_does_not_blame_the_child(self, harness: SupervisorHarness) -> None:
        """A paused container or SIGSTOP to all processes: no event was read; the child may have been frozen too."""
        harness.timing = replace(SHORT_TIMING, stall_seconds=3.0)
        job_id = harness.submit()
        supervisor = harness.supervisor((*HONEST_PROGRAM, "--epochs", "3", "--epoch-seconds", "0.05"))
        frozen: list[bool] = []

        def freeze() -> bool:
            if not frozen and harness.folder(job_id).joinpath("checkpoints").exists():
                frozen.append(True)
                child = harness.child_of(job_id)
                os.kill(child, signal.SIGSTOP)
                time.sleep(3.3)
                os.kill(child, signal.SIGCONT)
            return False

        assert replace(supervisor, draining=freeze).run() is JobState.SUCCEEDED
        assert frozen

    def test_a_child_without_any_event_is_stalled(self, harness: SupervisorHarness) -> None:
        harness.timing = replace(SHORT_TIMING, startup_seconds=0.5)
        job_id = harness.submit()
        assert harness.run(job_id, *program("mute")) is JobState.FAILED
        assert harness.job(job_id).reason is Reason.STALLED

    def test_pain_08_a_time_budget_that_ended_is_no_success(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit(timeout_seconds=0.5)
        assert harness.run(job_id, *program("obedient", "--epoch-seconds", "60")) is JobState.FAILED
        assert harness.job(job_id).reason is Reason.TIMEOUT_EXEC

    def test_a_missing_cache_is_reported(self, harness: SupervisorHarness) -> None:
        (harness.settings.caches_root / FINGERPRINT).rmdir()
        job_id = harness.submit()
        assert harness.run(job_id, *HONEST_PROGRAM) is JobState.FAILED
        assert harness.job(job_id).reason is Reason.DATA_CHANGED


class TestFullDisk:
    """Writing to /dev/full fails as on a full disk."""

    def folder(self, harness: SupervisorHarness, job_id: UUID) -> Path:
        folder = harness.folder(job_id)
        folder.mkdir(parents=True)
        return folder

    def test_g11_pain_41_a_full_disk_at_the_start_is_reported(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        (self.folder(harness, job_id) / "spec.json").symlink_to("/dev/full")
        assert harness.run(job_id, *HONEST_PROGRAM) is JobState.FAILED
        assert harness.job(job_id).reason is Reason.DISK_FULL

    def test_pain_41_a_log_that_cannot_grow_does_not_stop_the_run(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        (self.folder(harness, job_id) / "log.txt").symlink_to("/dev/full")
        assert harness.run(job_id, *HONEST_PROGRAM) is JobState.SUCCEEDED

    def test_pain_41_a_disk_full_event_of_the_child_is_final(self, harness: SupervisorHarness) -> None:
        job_id = harness.submit()
        assert (
            harness.run(job_id, *program("crashing", "--failed-reason", "disk_full", "--code", "1")) is JobState.FAILED
        )
        assert harness.job(job_id).reason is Reason.DISK_FULL
