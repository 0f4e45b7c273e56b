"""The table of state transitions."""

import pytest

from jobs.states import ACTIVE, NEXT, TERMINAL, JobState, sources_of


def test_terminal_states_have_no_transition() -> None:
    assert all(not NEXT[state] for state in TERMINAL)
    assert set(NEXT) == set(JobState)
    assert set(JobState) == TERMINAL | ACTIVE


@pytest.mark.parametrize("state", JobState)
def test_sources_are_the_inverse_of_next(state: JobState) -> None:
    assert set(sources_of(state)) == {source for source in JobState if state in NEXT[source]}


def test_every_state_is_reached_from_queued() -> None:
    reached = {JobState.QUEUED}
    for _ in JobState:
        reached |= {to for state in reached for to in NEXT[state]}
    assert reached == set(JobState)
