"""What an ended attempt means for its job: one pure function from what was asked, what was said and how it exited."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from atft.events import Failed, Finished, Stopped
from jobs.db.tables import Json
from jobs.states import JobState, Reason
from worker.attempt.child import Exit
from worker.attempt.watchdog import Ending, Word

USAGE: Final = 2  # the program's exit code for arguments or a spec it does not accept
KILLED: Final = 137  # what a container or a shell says for SIGKILL: of those, only want of memory kills unasked
MEMORY_WAIT_SECONDS: Final = 30.0
_MEMORY: Final = (Reason.OOM_GPU, Reason.OOM_HOST)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """`to` QUEUED is another attempt; `counts` is whether this one was a failure, `overrides` how the next differs."""

    to: JobState
    reason: Reason | None = None
    message: str | None = None
    counts: bool = False
    delay_seconds: float = 0.0
    overrides: Json | None = None


def judge(  # noqa: PLR0911 - a table, one row per return
    *,
    ending: Ending | None,
    word: Word | None,
    exit: Exit,  # noqa: A002 - it is one
    detail: str = "",
    out_of_memory: bool = False,
    evidence: Mapping[str, object] | None = None,
) -> Verdict:
    """`ending` is why the supervisor ended the child (never SUPERSEDED: then nothing is written), `detail` what it
    saw then, or else the last line of the child's log.

    Only a death without a word and want of memory are classified transient, the latter while micro-batches can be
    halved: the next attempt adds up twice as many of them for the same update. A pause, a drain or a stall (of a
    program that is slow to leave) lets a result stand that is already whole; a cancel, a prune or a timeout does not.
    """
    match ending:
        case Ending.CANCEL:
            return Verdict(to=JobState.CANCELLED, reason=Reason.USER, message=f"cancelled; {exit}")
        case Ending.PRUNE:
            return Verdict(to=JobState.PRUNED, reason=Reason.PRUNED, message=f"pruned; {exit}")
        case Ending.TIMEOUT:
            return Verdict(to=JobState.FAILED, reason=Reason.TIMEOUT_EXEC, message=detail)
        case Ending.STALL if not _told(word, exit):
            return Verdict(to=JobState.FAILED, reason=Reason.STALLED, message=detail)
        case Ending.PROTOCOL:
            message = f"the program broke its protocol: {detail}"
            return Verdict(to=JobState.FAILED, reason=Reason.INTERNAL, message=message)
        case Ending.PAUSE if not _told(word, exit):
            return Verdict(to=JobState.PAUSED, reason=Reason.USER, message=f"paused; {exit}")
        case Ending.DRAIN if not _told(word, exit):
            message = f"the worker was told to stop; {exit}"
            return Verdict(to=JobState.QUEUED, reason=Reason.DRAINED, message=message)
    verdict = _by_itself(word, exit, detail, out_of_memory)
    return _out_of_memory(verdict, evidence or {}) if verdict.reason in _MEMORY else verdict


def _told(word: Word | None, exit: Exit) -> bool:  # noqa: A002
    return isinstance(word, Failed) or (isinstance(word, Finished) and exit.code == 0)


def _by_itself(word: Word | None, exit: Exit, detail: str, out_of_memory: bool) -> Verdict:  # noqa: A002, PLR0911
    if isinstance(word, Failed):
        return Verdict(to=JobState.FAILED, reason=word.reason, message=word.message)
    if exit.code == 0:
        match word:
            case Finished():
                return Verdict(to=JobState.SUCCEEDED, reason=word.reason)
            case Stopped():  # a SIGTERM that was not ours, such as a service manager's to every process
                message = "the program was told to stop from outside"
                return Verdict(to=JobState.QUEUED, reason=Reason.DRAINED, message=message)
        message = "the program exited with code 0 without a result"
        return Verdict(to=JobState.FAILED, reason=Reason.INTERNAL, message=message)
    if exit.code == USAGE:
        message = f"the program refused its arguments or its spec (exit code 2): {detail}"
        return Verdict(to=JobState.FAILED, reason=Reason.INTERNAL, message=message)
    if exit.code == KILLED or (out_of_memory and exit.signal == "SIGKILL"):
        message = "the system ran out of memory and killed the program"
        return Verdict(to=JobState.QUEUED, reason=Reason.OOM_HOST, message=message, counts=True)
    message = f"the program ended without a result: {exit}" + (f"; its last line: {detail}" if detail else "")
    return Verdict(to=JobState.QUEUED, reason=Reason.WORKER_LOST, message=message, counts=True)


def _out_of_memory(verdict: Verdict, evidence: Mapping[str, object]) -> Verdict:
    """What to do about want of memory, by what the program had said of its sizes."""
    memory, days = evidence.get("memory"), evidence.get("micro_batch_days")
    if isinstance(memory, dict) and memory.get("fits") is False:
        message = f"waits for memory: {verdict.message}"
        return Verdict(to=JobState.QUEUED, reason=verdict.reason, message=message, delay_seconds=MEMORY_WAIT_SECONDS)
    if isinstance(days, int) and days > 1:
        message = (
            f"{verdict.message}; the next attempt makes each update from micro-batches of at most {days // 2} days "
            f"instead of {days}"
        )
        overrides = {"micro_batch_days": days // 2}
        return Verdict(to=JobState.QUEUED, reason=verdict.reason, message=message, counts=True, overrides=overrides)
    return verdict
