"""When a child must end, decided from clocks and words alone: it touches no process and no database."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from atft.events import AnyEvent, Failed, Finished, Progress, Started, Stopped
from jobs.states import Wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds. A cancelled group is gone after look + grace + a moment: well under the promised 20 s."""

    poll_seconds: float = 0.25
    wanted_poll_seconds: float = 1.0  # how often `wanted` is read
    startup_seconds: float = 300.0  # to `started`, and again to the next word: importing torch can be slow
    stall_seconds: float = 60.0  # between words, at least
    stall_micro_batches: float = 10.0  # between words, in micro-batches
    grace_seconds: float = 12.0  # from SIGTERM to SIGKILL
    save_grace_seconds: float = 60.0  # the same for a pause, where nobody waits and the checkpoint is the point
    retry_seconds: float = 2.0  # delay before the second attempt; doubles with each failure
    max_retry_seconds: float = 60.0


class StopCause(Enum):
    """Why the supervisor ends a child; None of these: the child ended by itself."""

    CANCEL = auto()
    PRUNE = auto()
    PAUSE = auto()
    DRAIN = auto()
    TIMEOUT = auto()
    STALL = auto()
    PROTOCOL = auto()
    SUPERSEDED = auto()


_CAUSE_OF_WANTED = {Wanted.CANCEL: StopCause.CANCEL, Wanted.PRUNE: StopCause.PRUNE, Wanted.PAUSE: StopCause.PAUSE}
_GRACEFUL = frozenset({StopCause.PAUSE, StopCause.DRAIN})  # a cancel or a prune may still take over from these
FinalEvent = Finished | Stopped | Failed


class Watchdog:
    """`step` returns what to end the child for; once it has, the answer changes to something stronger only."""

    def __init__(
        self, timing: Timing, timeout_seconds: float | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._timing = timing
        self._now = now
        self._began = self._last_event_at = now()
        self._timeout_seconds = timeout_seconds
        self._started = False
        self._micro_batch_seconds = 0.0
        self.phase = "start-up"
        self.stop_cause: StopCause | None = None
        self._kill_at: float | None = None
        self.final_event: FinalEvent | None = None

    def on_event(self, event: AnyEvent) -> None:
        self._started = self._started or not isinstance(event, Started)
        self._last_event_at = self._now()
        if isinstance(event, Progress):
            self.phase = event.phase
            self._micro_batch_seconds = event.micro_batch_seconds or self._micro_batch_seconds
        elif isinstance(event, Finished | Stopped | Failed):
            self.final_event = event

    def reset_silence(self) -> None:
        """The supervisor itself reads nothing for now: silence is not the child's."""
        self._last_event_at = self._now()

    @property
    def stall_seconds(self) -> float:
        """How long the child may be silent."""
        if not self._started:
            return self._timing.startup_seconds
        return max(self._timing.stall_seconds, self._timing.stall_micro_batches * self._micro_batch_seconds)

    @property
    def silent_seconds(self) -> float:
        return self._now() - self._last_event_at

    def begin_stop(self, stop_cause: StopCause) -> None:
        """End the child for `ending`, after the grace that belongs to it."""
        grace = {
            StopCause.PAUSE: self._timing.save_grace_seconds,
            StopCause.STALL: 0.0,
            StopCause.PROTOCOL: 0.0,
            StopCause.SUPERSEDED: 0.0,
        }.get(stop_cause, self._timing.grace_seconds)
        self.stop_cause = stop_cause
        self._kill_at = self._now() + grace

    def step(self, *, wanted: Wanted, draining: bool, superseded: bool) -> StopCause | None:
        """The reason to ask the child to stop, when there is a new one."""
        new = self._reason(wanted, draining, superseded)
        if new is not None:
            self.begin_stop(new)
        return new

    def _reason(self, wanted: Wanted, draining: bool, superseded: bool) -> StopCause | None:  # noqa: PLR0911 - a table
        if superseded:
            return StopCause.SUPERSEDED if self.stop_cause is not StopCause.SUPERSEDED else None
        requested = _CAUSE_OF_WANTED.get(wanted)
        if self.stop_cause is None and self.final_event is None:
            if requested is not None:
                return requested
            if draining:
                return StopCause.DRAIN
            if self._timeout_seconds is not None and self._now() - self._began > self._timeout_seconds:
                return StopCause.TIMEOUT
        elif self.stop_cause in _GRACEFUL and requested in (StopCause.CANCEL, StopCause.PRUNE):
            return requested
        if self.stop_cause is None and self.silent_seconds > self.stall_seconds:
            return StopCause.STALL
        return None

    @property
    def must_kill(self) -> bool:
        """The grace is over."""
        return self._kill_at is not None and self._now() >= self._kill_at
