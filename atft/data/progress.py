"""How far a build is, said once in a while from whatever it is doing, and whether it is to stop."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from atft.events import Event, Progress

T = TypeVar("T")
REPORT_SECONDS = 1.0  # seconds between two words
POLL_SECONDS = 0.2  # seconds between two looks at `stop` while a thread works


class BuildStopped(Exception):
    """The build was asked to stop; nothing is left of it."""


class ProgressReporter:
    """Emits `Progress` with the stage, rows and a guess of the time left; each call raises BuildStopped once `stop`
    says so.
    """

    def __init__(
        self, emit: Callable[[Event], None] = lambda _: None, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._emit, self._stop = emit, stop
        self._started_at = self._reported_at = time.monotonic()
        self._stage = ""
        self._rows: int | None = None
        self._start = self._end = self._ratio = 0.0
        self._share = 0.0

    def start_stage(self, name: str, end: float, rows: int | None = None) -> None:
        """A new stage begins, which takes the build from where the last one ended to ratio `end`; said at once."""
        self._stage, self._rows = name, rows
        self._start, self._end, self._share = self._end, end, 0.0
        self._reported_at = -1.0
        self.update(0.0)

    def update(self, share: float) -> None:
        """`share` of the stage's rows are done."""
        if self._stop():
            raise BuildStopped
        self._share = min(1.0, share)
        now = time.monotonic()
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            self._report(now)

    def wait(self, future: Future[T]) -> T:
        """The result of what runs in another thread, saying meanwhile that the build lives."""
        return self.wait_all([future])[0]

    def wait_all(self, futures: Sequence[Future[T]]) -> list[T]:
        """`wait` for several, with less work than for one after the other: while it is done here, they stand still."""
        while wait(futures, timeout=POLL_SECONDS).not_done:
            self.update(self._share)
        return [future.result() for future in futures]

    def run(self, work: Callable[[], T]) -> T:
        """The result of one long call (a sort, a group-by) which cannot ask for itself."""
        return self.wait(background(work))

    def run_to_completion(self, work: Callable[[], T]) -> T:
        """`run`, for what writes: when the build is stopped, it ends before its folder goes."""
        future = background(work)
        try:
            return self.wait(future)
        finally:
            wait([future])

    def _report(self, now: float) -> None:
        self._ratio = max(self._ratio, self._start + self._share * (self._end - self._start))
        elapsed = now - self._started_at
        left = elapsed * (1 - self._ratio) / self._ratio if self._ratio > 0.02 and elapsed > REPORT_SECONDS else None
        self._emit(
            Progress(
                phase="build",
                stage=self._stage,
                ratio=self._ratio,
                eta_seconds=left,
                rows=None if self._rows is None else round(self._share * self._rows),
                num_rows=self._rows,
            )
        )


def background(work: Callable[[], T]) -> Future[T]:
    """Runs `work` in a thread of its own, one that an ending program does not wait for."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
