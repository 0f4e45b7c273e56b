"""A program that native code ends on its input is not tried again."""

import pytest

from jobs.states import JobState, Reason
from worker.attempt.child import ExitStatus
from worker.attempt.outcome import decide_outcome


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
