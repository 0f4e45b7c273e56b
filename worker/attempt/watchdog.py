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
    look_seconds: float = 1.0  # how often `wanted` is read
    startup_seconds: float = 300.0  # to `started`, and again to the next word: importing torch can be slow
    stall_seconds: float = 60.0  # between words, at least
    stall_micro_batches: float = 10.0  # between words, in micro-batches
    grace_seconds: float = 12.0  # from SIGTERM to SIGKILL
    save_grace_seconds: float = 60.0  # the same for a pause, where nobody waits and the checkpoint is the point
    retry_seconds: float = 2.0  # delay before the second attempt; doubles with each failure
    max_retry_seconds: float = 60.0


class Ending(Enum):
    """Why the supervisor ends a child; None of these: the child ended by itself."""

    CANCEL = auto()
    PRUNE = auto()
    PAUSE = auto()
    DRAIN = auto()
    TIMEOUT = auto()
    STALL = auto()
    PROTOCOL = auto()
    SUPERSEDED = auto()


_ASKED = {Wanted.CANCEL: Ending.CANCEL, Wanted.PRUNE: Ending.PRUNE, Wanted.PAUSE: Ending.PAUSE}
_MILD = frozenset({Ending.PAUSE, Ending.DRAIN})  # a cancel or a prune may still take over from these
Word = Finished | Stopped | Failed


class Watch:
    """`step` returns what to end the child for; once it has, the answer changes to something stronger only."""

    def __init__(
        self, timing: Timing, timeout_seconds: float | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._timing = timing
        self._now = now
        self._began = self._last_word = now()
        self._timeout_seconds = timeout_seconds
        self._started = False
        self._micro_batch_seconds = 0.0
        self.phase = "start-up"
        self.ending: Ending | None = None
        self._kill_at: float | None = None
        self.word: Word | None = None

    def heard(self, event: AnyEvent) -> None:
        self._started = self._started or not isinstance(event, Started)
        self._last_word = self._now()
        if isinstance(event, Progress):
            self.phase = event.phase
            self._micro_batch_seconds = event.micro_batch_seconds or self._micro_batch_seconds
        elif isinstance(event, Finished | Stopped | Failed):
            self.word = event

    def not_listening(self) -> None:
        """The supervisor itself reads nothing for now: silence is not the child's."""
        self._last_word = self._now()

    @property
    def stall_seconds(self) -> float:
        """How long the child may be silent."""
        if not self._started:
            return self._timing.startup_seconds
        return max(self._timing.stall_seconds, self._timing.stall_micro_batches * self._micro_batch_seconds)

    @property
    def silent_seconds(self) -> float:
        return self._now() - self._last_word

    def end(self, ending: Ending) -> None:
        """End the child for `ending`, after the grace that belongs to it."""
        grace = {
            Ending.PAUSE: self._timing.save_grace_seconds,
            Ending.STALL: 0.0,
            Ending.PROTOCOL: 0.0,
            Ending.SUPERSEDED: 0.0,
        }.get(ending, self._timing.grace_seconds)
        self.ending = ending
        self._kill_at = self._now() + grace

    def step(self, *, wanted: Wanted, draining: bool, superseded: bool) -> Ending | None:
        """The reason to ask the child to stop, when there is a new one."""
        new = self._reason(wanted, draining, superseded)
        if new is not None:
            self.end(new)
        return new

    def _reason(self, wanted: Wanted, draining: bool, superseded: bool) -> Ending | None:  # noqa: PLR0911 - a table
        if superseded:
            return Ending.SUPERSEDED if self.ending is not Ending.SUPERSEDED else None
        asked = _ASKED.get(wanted)
        if self.ending is None and self.word is None:
            if asked is not None:
                return asked
            if draining:
                return Ending.DRAIN
            if self._timeout_seconds is not None and self._now() - self._began > self._timeout_seconds:
                return Ending.TIMEOUT
        elif self.ending in _MILD and asked in (Ending.CANCEL, Ending.PRUNE):
            return asked
        if self.ending is None and self.silent_seconds > self.stall_seconds:
            return Ending.STALL
        return None

    @property
    def must_die(self) -> bool:
        """The grace is over."""
        return self._kill_at is not None and self._now() >= self._kill_at
