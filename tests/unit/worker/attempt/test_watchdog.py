from dataclasses import dataclass

import pytest

from atft.events import Finished, Progress, Started, Stopped
from jobs.states import Wanted
from worker.attempt.watchdog import Ending, Timing, Watch

TIMING = Timing(startup_seconds=120, stall_seconds=60, grace_seconds=12, save_grace_seconds=60)


@dataclass
class Clock:
    time: float = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def step(
    watch: Watch, wanted: Wanted = Wanted.RUN, *, draining: bool = False, superseded: bool = False
) -> Ending | None:
    return watch.step(wanted=wanted, draining=draining, superseded=superseded)


def progress(micro_batch_seconds: float | None = None) -> Progress:
    return Progress(phase="train", ratio=0.5, micro_batch_seconds=micro_batch_seconds)


def test_silence_before_the_first_word_is_start_up(clock: Clock) -> None:
    watch = Watch(TIMING, None, clock)
    clock.time += 119
    assert step(watch) is None
    clock.time += 2
    assert step(watch) is Ending.STALL
    assert watch.must_die


def test_pain_04_silence_after_it_is_a_stall(clock: Clock) -> None:
    watch = Watch(TIMING, None, clock)
    watch.heard(Started(pid=1))
    clock.time += 59
    assert step(watch) is None
    watch.heard(progress())
    clock.time += 61
    assert step(watch) is Ending.STALL
    assert watch.phase == "train"


def test_loading_torch_on_a_busy_machine_is_no_stall(clock: Clock) -> None:
    """Found by the chaos run: `started` comes before the imports, which then took more than a minute."""
    watch = Watch(TIMING, None, clock)
    clock.time += 100
    watch.heard(Started(pid=1))
    clock.time += 119
    assert step(watch) is None
    clock.time += 2
    assert step(watch) is Ending.STALL


def test_long_micro_batches_are_waited_for(clock: Clock) -> None:
    watch = Watch(TIMING, None, clock)
    watch.heard(progress(micro_batch_seconds=20.0))
    clock.time += 199
    assert step(watch) is None
    clock.time += 2
    assert step(watch) is Ending.STALL


def test_a_supervisor_that_does_not_listen_does_not_blame_the_child(clock: Clock) -> None:
    watch = Watch(TIMING, None, clock)
    watch.heard(Started(pid=1))
    for _ in range(10):
        clock.time += 30
        watch.not_listening()
        assert step(watch) is None


@pytest.mark.parametrize(
    ("wanted", "ending"), [(Wanted.CANCEL, Ending.CANCEL), (Wanted.PRUNE, Ending.PRUNE), (Wanted.PAUSE, Ending.PAUSE)]
)
def test_what_is_wanted_is_asked_once_and_enforced_after_its_grace(
    clock: Clock, wanted: Wanted, ending: Ending
) -> None:
    watch = Watch(TIMING, None, clock)
    watch.heard(Started(pid=1))
    assert step(watch, wanted) is ending
    assert step(watch, wanted) is None
    grace = 60 if ending is Ending.PAUSE else 12
    clock.time += grace - 1
    assert not watch.must_die
    clock.time += 2
    assert watch.must_die


@pytest.mark.parametrize("first", ["pause", "drain"])
def test_a_cancel_takes_over_from_a_pause_or_a_drain(clock: Clock, first: str) -> None:
    watch = Watch(TIMING, None, clock)
    watch.heard(Started(pid=1))
    step(watch, Wanted.PAUSE if first == "pause" else Wanted.RUN, draining=first == "drain")
    clock.time += 5
    assert step(watch, Wanted.CANCEL, draining=True) is Ending.CANCEL
    clock.time += 11
    assert not watch.must_die
    clock.time += 2
    assert watch.must_die


def test_superseded_beats_everything_and_waits_for_nothing(clock: Clock) -> None:
    watch = Watch(TIMING, None, clock)
    step(watch, Wanted.CANCEL)
    assert step(watch, Wanted.CANCEL, superseded=True) is Ending.SUPERSEDED
    assert watch.must_die
    assert step(watch, Wanted.CANCEL, superseded=True) is None


def test_pain_08_the_time_budget(clock: Clock) -> None:
    watch = Watch(TIMING, 100.0, clock)
    for _ in range(10):
        clock.time += 10
        watch.heard(progress())
    assert step(watch) is None
    clock.time += 1
    assert step(watch) is Ending.TIMEOUT


def test_a_child_that_has_said_its_last_word_is_not_asked_any_more(clock: Clock) -> None:
    for word in (Finished(), Stopped()):
        watch = Watch(TIMING, 1.0, clock)
        watch.heard(word)
        assert step(watch, Wanted.CANCEL, draining=True) is None
        assert watch.word is word
        clock.time += 61
        assert step(watch) is Ending.STALL
