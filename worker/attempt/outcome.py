"""The outcome of an attempt for its job: a pure function of stop cause, final event and exit status."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from atft.events import Failed, Finished, Stopped
from jobs.db.tables import Json
from jobs.states import JobState, Reason
from worker.attempt.child import ExitStatus
from worker.attempt.watchdog import FinalEvent, StopCause

USAGE_ERROR_CODE: Final = 2  # the program's exit code for invalid arguments or an invalid spec
SIGKILL_CODE: Final = 137  # how containers and shells report SIGKILL; unrequested, it means out of memory
MEMORY_WAIT_SECONDS: Final = 30.0
_PANIC: Final = re.compile(  # of Rust, where it aborts instead of raising PanicException
    r"panicked at .*\n(.*)|(memory allocation of \d+ bytes failed)"
)
_OUT_OF_MEMORY: Final = (Reason.OOM_GPU, Reason.OOM_HOST)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The job's next state: QUEUED means another attempt, with `overrides`; `counts_as_failure` uses one up."""

    to: JobState
    reason: Reason | None = None
    message: str | None = None
    counts_as_failure: bool = False
    delay_seconds: float = 0.0
    overrides: Json | None = None


def decide_outcome(  # noqa: PLR0911 - a table, one row per return
    *,
    stop_cause: StopCause | None,
    final_event: FinalEvent | None,
    exit_status: ExitStatus,
    detail: str = "",
    log_tail: str = "",
    out_of_memory: bool = False,
    evidence: Mapping[str, object] | None = None,
) -> Outcome:
    """The outcome of an attempt. `stop_cause` is why the supervisor stopped the child (never SUPERSEDED: then
    nothing is written), `detail` what it observed then, or else the last line of the child's log.

    Only a crash without a final event and running out of memory are transient, the latter while micro-batches can be
    halved (the next attempt accumulates twice as many per update). A pause, a drain or a stall (a program that is slow
    to exit) accepts a result that is already complete; a cancel, a prune or a timeout does not.
    """
    match stop_cause:
        case StopCause.CANCEL:
            return Outcome(to=JobState.CANCELLED, reason=Reason.USER, message=f"cancelled; {exit_status}")
        case StopCause.PRUNE:
            return Outcome(to=JobState.PRUNED, reason=Reason.PRUNED, message=f"pruned; {exit_status}")
        case StopCause.TIMEOUT:
            return Outcome(to=JobState.FAILED, reason=Reason.TIMEOUT_EXEC, message=detail)
        case StopCause.STALL if not _has_result(final_event, exit_status):
            return Outcome(to=JobState.FAILED, reason=Reason.STALLED, message=detail)
        case StopCause.PROTOCOL:
            message = f"the program broke its protocol: {detail}"
            return Outcome(to=JobState.FAILED, reason=Reason.INTERNAL, message=message)
        case StopCause.PAUSE if not _has_result(final_event, exit_status):
            return Outcome(to=JobState.PAUSED, reason=Reason.USER, message=f"paused; {exit_status}")
        case StopCause.DRAIN if not _has_result(final_event, exit_status):
            message = f"the worker was told to stop; {exit_status}"
            return Outcome(to=JobState.QUEUED, reason=Reason.DRAINED, message=message)
    panic = _PANIC.search(log_tail)
    if panic is not None and final_event is None and exit_status.signal == "SIGABRT":
        message = f"native code ended the program, on values that it does not expect: {panic[1] or panic[2]}"
        return Outcome(to=JobState.FAILED, reason=Reason.INVALID_PARAMS, message=message)
    outcome = _outcome_of_exit(final_event, exit_status, detail, out_of_memory)
    return _outcome_of_out_of_memory(outcome, evidence or {}) if outcome.reason in _OUT_OF_MEMORY else outcome


def _has_result(final_event: FinalEvent | None, exit_status: ExitStatus) -> bool:
    return isinstance(final_event, Failed) or (isinstance(final_event, Finished) and exit_status.code == 0)


def _outcome_of_exit(  # noqa: PLR0911 - a table
    final_event: FinalEvent | None, exit_status: ExitStatus, detail: str, out_of_memory: bool
) -> Outcome:
    if isinstance(final_event, Failed):
        return Outcome(to=JobState.FAILED, reason=final_event.reason, message=final_event.message)
    if exit_status.code == 0:
        match final_event:
            case Finished():
                return Outcome(to=JobState.SUCCEEDED, reason=final_event.reason)
            case Stopped():  # a SIGTERM that was not ours, such as a service manager's to every process
                message = "the program was told to stop from outside"
                return Outcome(to=JobState.QUEUED, reason=Reason.DRAINED, message=message)
        message = "the program exited with code 0 without a result"
        return Outcome(to=JobState.FAILED, reason=Reason.INTERNAL, message=message)
    if exit_status.code == USAGE_ERROR_CODE:
        message = f"the program refused its arguments or its spec (exit code 2): {detail}"
        return Outcome(to=JobState.FAILED, reason=Reason.INTERNAL, message=message)
    if exit_status.code == SIGKILL_CODE or (out_of_memory and exit_status.signal == "SIGKILL"):
        message = "the system ran out of memory and killed the program"
        return Outcome(to=JobState.QUEUED, reason=Reason.OOM_HOST, message=message, counts_as_failure=True)
    message = f"the program ended without a result: {exit_status}" + (f"; its last line: {detail}" if detail else "")
    return Outcome(to=JobState.QUEUED, reason=Reason.WORKER_LOST, message=message, counts_as_failure=True)


def _outcome_of_out_of_memory(outcome: Outcome, evidence: Mapping[str, object]) -> Outcome:
    """The outcome of running out of memory, by the micro-batch size and memory check in the evidence."""
    memory, days = evidence.get("memory"), evidence.get("micro_batch_days")
    if isinstance(memory, dict) and memory.get("fits") is False:
        message = f"waits for memory: {outcome.message}"
        return Outcome(to=JobState.QUEUED, reason=outcome.reason, message=message, delay_seconds=MEMORY_WAIT_SECONDS)
    if isinstance(days, int) and days > 1:
        message = (
            f"{outcome.message}; the next attempt makes each update from micro-batches of at most {days // 2} days "
            f"instead of {days}"
        )
        overrides = {"micro_batch_days": days // 2}
        return Outcome(
            to=JobState.QUEUED, reason=outcome.reason, message=message, counts_as_failure=True, overrides=overrides
        )
    return outcome
