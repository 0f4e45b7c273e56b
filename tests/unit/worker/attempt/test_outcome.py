import pytest

from atft.events import Failed, Finished, Stopped
from jobs.states import JobState, Reason
from worker.attempt.child import ExitStatus
from worker.attempt.outcome import decide_outcome
from worker.attempt.watchdog import FinalEvent, StopCause

OK, KILLED, CRASHED = ExitStatus(code=0), ExitStatus(signal="SIGKILL"), ExitStatus(code=3)
FAILED = Failed(reason=Reason.NAN_LOSS, message="NaN on 2020-01-06")


@pytest.mark.parametrize(
    ("stop_cause", "final_event", "exit_status", "to", "reason"),
    [
        (None, Finished(), OK, JobState.SUCCEEDED, None),
        (None, Finished(reason=Reason.EARLY_STOPPED), OK, JobState.SUCCEEDED, Reason.EARLY_STOPPED),
        (None, FAILED, ExitStatus(code=1), JobState.FAILED, Reason.NAN_LOSS),
        (None, None, OK, JobState.FAILED, Reason.INTERNAL),
        (None, None, ExitStatus(code=2), JobState.FAILED, Reason.INTERNAL),
        (None, Stopped(), OK, JobState.QUEUED, Reason.DRAINED),
        (StopCause.CANCEL, Stopped(), OK, JobState.CANCELLED, Reason.USER),
        (StopCause.CANCEL, None, KILLED, JobState.CANCELLED, Reason.USER),
        (StopCause.CANCEL, Finished(), OK, JobState.CANCELLED, Reason.USER),
        (StopCause.PRUNE, Stopped(), OK, JobState.PRUNED, Reason.PRUNED),
        (StopCause.PAUSE, Stopped(), OK, JobState.PAUSED, Reason.USER),
        (StopCause.PAUSE, None, KILLED, JobState.PAUSED, Reason.USER),
        (StopCause.PAUSE, Finished(), OK, JobState.SUCCEEDED, None),
        (StopCause.PAUSE, FAILED, ExitStatus(code=1), JobState.FAILED, Reason.NAN_LOSS),
        (StopCause.DRAIN, Stopped(), OK, JobState.QUEUED, Reason.DRAINED),
        (StopCause.DRAIN, None, KILLED, JobState.QUEUED, Reason.DRAINED),
        (StopCause.DRAIN, Finished(), OK, JobState.SUCCEEDED, None),
        (StopCause.DRAIN, Finished(), KILLED, JobState.QUEUED, Reason.DRAINED),
        (StopCause.TIMEOUT, Finished(), OK, JobState.FAILED, Reason.TIMEOUT_EXEC),
        (StopCause.STALL, None, KILLED, JobState.FAILED, Reason.STALLED),
        (StopCause.STALL, None, OK, JobState.FAILED, Reason.STALLED),
        (StopCause.STALL, Finished(), KILLED, JobState.FAILED, Reason.STALLED),
        (StopCause.STALL, Finished(), OK, JobState.SUCCEEDED, None),  # found by a chaos run: the exit took a minute
        (StopCause.STALL, FAILED, KILLED, JobState.FAILED, Reason.NAN_LOSS),
        (StopCause.PROTOCOL, None, KILLED, JobState.FAILED, Reason.INTERNAL),
    ],
)
def test_a_settled_end(
    stop_cause: StopCause | None,
    final_event: FinalEvent | None,
    exit_status: ExitStatus,
    to: JobState,
    reason: Reason | None,
) -> None:
    outcome = decide_outcome(stop_cause=stop_cause, final_event=final_event, exit_status=exit_status)
    assert (outcome.to, outcome.reason, outcome.counts_as_failure) == (to, reason, False)


@pytest.mark.parametrize("final_event", [None, Finished(), Stopped()])
@pytest.mark.parametrize("exit_status", [KILLED, CRASHED, ExitStatus(signal="SIGSEGV"), ExitStatus(code=75)])
def test_pain_40_only_a_crash_without_a_final_event_is_transient(
    final_event: FinalEvent | None, exit_status: ExitStatus
) -> None:
    outcome = decide_outcome(stop_cause=None, final_event=final_event, exit_status=exit_status, detail="the last line")
    assert (outcome.to, outcome.reason, outcome.counts_as_failure) == (JobState.QUEUED, Reason.WORKER_LOST, True)
    assert str(exit_status) in (outcome.message or "")
    assert "the last line" in (outcome.message or "")


@pytest.mark.parametrize(
    ("exit_status", "reason"),
    [(KILLED, Reason.OOM_HOST), (ExitStatus(code=137), Reason.OOM_HOST), (CRASHED, Reason.WORKER_LOST)],
)
def test_an_out_of_memory_kill_is_recognised_only_for_sigkill(exit_status: ExitStatus, reason: Reason) -> None:
    assert (
        decide_outcome(stop_cause=None, final_event=None, exit_status=exit_status, out_of_memory=True).reason is reason
    )


def test_exit_137_means_out_of_memory() -> None:
    assert decide_outcome(stop_cause=None, final_event=None, exit_status=ExitStatus(code=137)).reason is Reason.OOM_HOST


@pytest.mark.parametrize("reason", [Reason.OOM_GPU, Reason.OOM_HOST])
@pytest.mark.parametrize(
    ("evidence", "to", "overrides"),
    [
        ({"micro_batch_days": 5}, JobState.QUEUED, {"micro_batch_days": 2}),
        ({"micro_batch_days": 1}, JobState.FAILED, None),
        ({}, JobState.FAILED, None),
    ],
)
def test_g8_out_of_memory_halves_the_micro_batch_while_it_can(
    reason: Reason, evidence: dict[str, object], to: JobState, overrides: object
) -> None:
    final_event = Failed(reason=reason, message="full")
    outcome = decide_outcome(
        stop_cause=None, final_event=final_event, exit_status=ExitStatus(code=1), evidence=evidence
    )
    assert (outcome.to, outcome.reason, outcome.overrides) == (to, reason, overrides)
    assert outcome.counts_as_failure is (to is JobState.QUEUED)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("thread 'x' panicked at a.rs:1:2:\nnot yet implemented: Decimal256\nnote", "not yet implemented: Decimal256"),
        ("memory allocation of 549755813888 bytes failed\n", "memory allocation of 549755813888 bytes failed"),
    ],
)
def test_an_abort_of_native_code_is_a_fault_of_the_values(log: str, words: str) -> None:
    outcome = decide_outcome(stop_cause=None, final_event=None, exit_status=ExitStatus(signal="SIGABRT"), log_tail=log)
    assert (outcome.to, outcome.reason) == (JobState.FAILED, Reason.INVALID_PARAMS)
    assert words in str(outcome.message)
