import pytest

from atft.events import Failed, Finished, Stopped
from jobs.states import JobState, Reason
from worker.attempt.child import Exit
from worker.attempt.outcome import judge
from worker.attempt.watchdog import Ending, Word

OK, KILLED, CRASHED = Exit(code=0), Exit(signal="SIGKILL"), Exit(code=3)
FAILED = Failed(reason=Reason.NAN_LOSS, message="NaN on 2020-01-06")


@pytest.mark.parametrize(
    ("ending", "word", "ended", "to", "reason"),
    [
        (None, Finished(), OK, JobState.SUCCEEDED, None),
        (None, Finished(reason=Reason.EARLY_STOPPED), OK, JobState.SUCCEEDED, Reason.EARLY_STOPPED),
        (None, FAILED, Exit(code=1), JobState.FAILED, Reason.NAN_LOSS),
        (None, None, OK, JobState.FAILED, Reason.INTERNAL),
        (None, None, Exit(code=2), JobState.FAILED, Reason.INTERNAL),
        (None, Stopped(), OK, JobState.QUEUED, Reason.DRAINED),
        (Ending.CANCEL, Stopped(), OK, JobState.CANCELLED, Reason.USER),
        (Ending.CANCEL, None, KILLED, JobState.CANCELLED, Reason.USER),
        (Ending.CANCEL, Finished(), OK, JobState.CANCELLED, Reason.USER),
        (Ending.PRUNE, Stopped(), OK, JobState.PRUNED, Reason.PRUNED),
        (Ending.PAUSE, Stopped(), OK, JobState.PAUSED, Reason.USER),
        (Ending.PAUSE, None, KILLED, JobState.PAUSED, Reason.USER),
        (Ending.PAUSE, Finished(), OK, JobState.SUCCEEDED, None),
        (Ending.PAUSE, FAILED, Exit(code=1), JobState.FAILED, Reason.NAN_LOSS),
        (Ending.DRAIN, Stopped(), OK, JobState.QUEUED, Reason.DRAINED),
        (Ending.DRAIN, None, KILLED, JobState.QUEUED, Reason.DRAINED),
        (Ending.DRAIN, Finished(), OK, JobState.SUCCEEDED, None),
        (Ending.DRAIN, Finished(), KILLED, JobState.QUEUED, Reason.DRAINED),
        (Ending.TIMEOUT, Finished(), OK, JobState.FAILED, Reason.TIMEOUT_EXEC),
        (Ending.STALL, None, KILLED, JobState.FAILED, Reason.STALLED),
        (Ending.STALL, None, OK, JobState.FAILED, Reason.STALLED),
        (Ending.STALL, Finished(), KILLED, JobState.FAILED, Reason.STALLED),
        (Ending.STALL, Finished(), OK, JobState.SUCCEEDED, None),  # found by the chaos run: a minute to leave
        (Ending.STALL, FAILED, KILLED, JobState.FAILED, Reason.NAN_LOSS),
        (Ending.PROTOCOL, None, KILLED, JobState.FAILED, Reason.INTERNAL),
    ],
)
def test_a_settled_end(
    ending: Ending | None, word: Word | None, ended: Exit, to: JobState, reason: Reason | None
) -> None:
    verdict = judge(ending=ending, word=word, exit=ended)
    assert (verdict.to, verdict.reason, verdict.counts) == (to, reason, False)


@pytest.mark.parametrize("word", [None, Finished(), Stopped()])
@pytest.mark.parametrize("ended", [KILLED, CRASHED, Exit(signal="SIGSEGV"), Exit(code=75)])
def test_pain_40_only_a_death_without_a_word_is_transient(word: Word | None, ended: Exit) -> None:
    verdict = judge(ending=None, word=word, exit=ended, detail="the last line")
    assert (verdict.to, verdict.reason, verdict.counts) == (JobState.QUEUED, Reason.WORKER_LOST, True)
    assert str(ended) in (verdict.message or "")
    assert "the last line" in (verdict.message or "")


@pytest.mark.parametrize(
    ("ended", "reason"), [(KILLED, Reason.OOM_HOST), (Exit(code=137), Reason.OOM_HOST), (CRASHED, Reason.WORKER_LOST)]
)
def test_memory_is_to_blame_only_for_a_kill(ended: Exit, reason: Reason) -> None:
    assert judge(ending=None, word=None, exit=ended, out_of_memory=True).reason is reason


def test_exit_137_is_a_kill_for_want_of_memory() -> None:
    assert judge(ending=None, word=None, exit=Exit(code=137)).reason is Reason.OOM_HOST


@pytest.mark.parametrize("reason", [Reason.OOM_GPU, Reason.OOM_HOST])
@pytest.mark.parametrize(
    ("evidence", "to", "overrides"),
    [
        ({"micro_batch_days": 5}, JobState.QUEUED, {"micro_batch_days": 2}),
        ({"micro_batch_days": 1}, JobState.FAILED, None),
        ({}, JobState.FAILED, None),
    ],
)
def test_g8_want_of_memory_halves_the_micro_batch_while_it_can(
    reason: Reason, evidence: dict[str, object], to: JobState, overrides: object
) -> None:
    word = Failed(reason=reason, message="full")
    verdict = judge(ending=None, word=word, exit=Exit(code=1), evidence=evidence)
    assert (verdict.to, verdict.reason, verdict.overrides) == (to, reason, overrides)
    assert verdict.counts is (to is JobState.QUEUED)
