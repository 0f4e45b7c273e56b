"""The watchdog: decides from clocks and events alone when a child must be stopped; no processes, no database."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from atft.events import AnyEvent, Failed, Finished, Progress, Started, Stopped
from jobs.states import Wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Timeouts in seconds. A cancelled process group is gone within poll + grace, well under the promised 20 s."""

    poll_seconds: float = 0.25
    wanted_poll_seconds: float = 1.0  # how often `wanted` is read
    startup_seconds: float = 300.0  # until `started`, and again until the next event: importing torch can be slow
    stall_seconds: float = 60.0  # between events, at least
    stall_micro_batches: float = 10.0  # between events, in micro-batches
    grace_seconds: float = 12.0  # from SIGTERM to SIGKILL
    save_grace_seconds: float = 60.0  # the same for a pause, whose purpose is the checkpoint
    retry_seconds: float = 2.0  # delay before the second attempt; doubles with each failure
    max_retry_seconds: float = 60.0


class StopCause(Enum):
    """Why the supervisor stops a child; None means that the child exited by itself."""

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
    """Tracks a child's events. `step` returns a stop cause once; later ones only replace it if they are stronger."""

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
        """Restart the silence timer, because the supervisor itself has not been reading events."""
        self._last_event_at = self._now()

    @property
    def stall_seconds(self) -> float:
        """The longest time between two events before the child counts as stalled."""
        if not self._started:
            return self._timing.startup_seconds
        return max(self._timing.stall_seconds, self._timing.stall_micro_batches * self._micro_batch_seconds)

    @property
    def silent_seconds(self) -> float:
        return self._now() - self._last_event_at

    def begin_stop(self, stop_cause: StopCause) -> None:
        """Set the stop cause, and start its grace period."""
        grace = {
            StopCause.PAUSE: self._timing.save_grace_seconds,
            StopCause.STALL: 0.0,
            StopCause.PROTOCOL: 0.0,
            StopCause.SUPERSEDED: 0.0,
        }.get(stop_cause, self._timing.grace_seconds)
        self.stop_cause = stop_cause
        self._kill_at = self._now() + grace

    def step(self, *, wanted: Wanted, draining: bool, superseded: bool) -> StopCause | None:
        """Check all conditions; a new stop cause starts its grace period and is returned."""
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
        """True once the grace period is over and the child must be killed."""
        return self._kill_at is not None and self._now() >= self._kill_at
