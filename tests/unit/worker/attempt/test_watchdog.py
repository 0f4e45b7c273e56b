from dataclasses import dataclass

import pytest

from atft.events import Finished, Progress, Started, Stopped
from jobs.states import Wanted
from worker.attempt.watchdog import StopCause, Timing, Watchdog

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
    watchdog: Watchdog, wanted: Wanted = Wanted.RUN, *, draining: bool = False, superseded: bool = False
) -> StopCause | None:
    return watchdog.step(wanted=wanted, draining=draining, superseded=superseded)


def progress(micro_batch_seconds: float | None = None) -> Progress:
    return Progress(phase="train", ratio=0.5, micro_batch_seconds=micro_batch_seconds)


def test_silence_before_the_first_event_is_start_up(clock: Clock) -> None:
    watchdog = Watchdog(TIMING, None, clock)
    clock.time += 119
    assert step(watchdog) is None
    clock.time += 2
    assert step(watchdog) is StopCause.STALL
    assert watchdog.must_kill


def test_pain_04_silence_after_it_is_a_stall(clock: Clock) -> None:
    watchdog = Watchdog(TIMING, None, clock)
    watchdog.on_event(Started(pid=1))
    clock.time += 59
    assert step(watchdog) is None
    watchdog.on_event(progress())
    clock.time += 61
    assert step(watchdog) is StopCause.STALL
    assert watchdog.phase == "train"


def test_loading_torch_on_a_busy_machine_is_no_stall(clock: Clock) -> None:
    """Found by a chaos run: `started` is sent before the imports, which then took more than a minute."""
    watchdog = Watchdog(TIMING, None, clock)
    clock.time += 100
    watchdog.on_event(Started(pid=1))
    clock.time += 119
    assert step(watchdog) is None
    clock.time += 2
    assert step(watchdog) is StopCause.STALL


def test_a_long_micro_batch_is_no_stall(clock: Clock) -> None:
    watchdog = Watchdog(TIMING, None, clock)
    watchdog.on_event(progress(micro_batch_seconds=20.0))
    clock.time += 199
    assert step(watchdog) is None
    clock.time += 2
    assert step(watchdog) is StopCause.STALL


def test_a_supervisor_that_reads_nothing_does_not_stall_the_child(clock: Clock) -> None:
    watchdog = Watchdog(TIMING, None, clock)
    watchdog.on_event(Started(pid=1))
    for _ in range(10):
        clock.time += 30
        watchdog.reset_silence()
        assert step(watchdog) is None


@pytest.mark.parametrize(
    ("wanted", "stop_cause"),
    [(Wanted.CANCEL, StopCause.CANCEL), (Wanted.PRUNE, StopCause.PRUNE), (Wanted.PAUSE, StopCause.PAUSE)],
)
def test_a_wanted_stop_is_requested_once_and_enforced_after_its_grace(
    clock: Clock, wanted: Wanted, stop_cause: StopCause
) -> None:
    watchdog = Watchdog(TIMING, None, clock)
    watchdog.on_event(Started(pid=1))
    assert step(watchdog, wanted) is stop_cause
    assert step(watchdog, wanted) is None
    grace = 60 if stop_cause is StopCause.PAUSE else 12
    clock.time += grace - 1
    assert not watchdog.must_kill
    clock.time += 2
    assert watchdog.must_kill


@pytest.mark.parametrize("first", ["pause", "drain"])
def test_a_cancel_takes_precedence_over_a_pause_or_a_drain(clock: Clock, first: str) -> None:
    watchdog = Watchdog(TIMING, None, clock)
    watchdog.on_event(Started(pid=1))
    step(watchdog, Wanted.PAUSE if first == "pause" else Wanted.RUN, draining=first == "drain")
    clock.time += 5
    assert step(watchdog, Wanted.CANCEL, draining=True) is StopCause.CANCEL
    clock.time += 11
    assert not watchdog.must_kill
    clock.time += 2
    assert watchdog.must_kill


def test_superseded_takes_precedence_and_kills_at_once(clock: Clock) -> None:
    watchdog = Watchdog(TIMING, None, clock)
    step(watchdog, Wanted.CANCEL)
    assert step(watchdog, Wanted.CANCEL, superseded=True) is StopCause.SUPERSEDED
    assert watchdog.must_kill
    assert step(watchdog, Wanted.CANCEL, superseded=True) is None


def test_pain_08_the_time_budget(clock: Clock) -> None:
    watchdog = Watchdog(TIMING, 100.0, clock)
    for _ in range(10):
        clock.time += 10
        watchdog.on_event(progress())
    assert step(watchdog) is None
    clock.time += 1
    assert step(watchdog) is StopCause.TIMEOUT


def test_a_child_that_sent_its_final_event_is_not_stopped_again(clock: Clock) -> None:
    for final_event in (Finished(), Stopped()):
        watchdog = Watchdog(TIMING, 1.0, clock)
        watchdog.on_event(final_event)
        assert step(watchdog, Wanted.CANCEL, draining=True) is None
        assert watchdog.final_event is final_event
        clock.time += 61
        assert step(watchdog) is StopCause.STALL
