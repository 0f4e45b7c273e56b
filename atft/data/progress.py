"""Progress reports of a build, and its cancellation."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from atft.events import Event, Progress

T = TypeVar("T")
REPORT_SECONDS = 1.0  # between two progress events
POLL_SECONDS = 0.2  # between two calls of `stop` while waiting for a thread


class BuildStopped(Exception):
    """The build was cancelled; it leaves no files behind."""


class ProgressReporter:
    """Emits `Progress` events with the stage, rows and estimated time left; its methods raise BuildStopped once
    `stop()` returns true.
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
        """Begin the stage that takes the build from the last stage's end to ratio `end`, and report it at once."""
        self._stage, self._rows = name, rows
        self._start, self._end, self._share = self._end, end, 0.0
        self._reported_at = -1.0
        self.update(0.0)

    def update(self, share: float) -> None:
        """Record that `share` of the stage is done; reports at most once a second."""
        if self._stop():
            raise BuildStopped
        self._share = min(1.0, share)
        now = time.monotonic()
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            self._report(now)

    def wait(self, future: Future[T]) -> T:
        """The result of `future`, reporting progress while it runs in another thread."""
        return self.wait_all([future])[0]

    def wait_all(self, futures: Sequence[Future[T]]) -> list[T]:
        """The results of several futures; cheaper than one `wait` each, as work in this thread holds the GIL."""
        while wait(futures, timeout=POLL_SECONDS).not_done:
            self.update(self._share)
        return [future.result() for future in futures]

    def run(self, work: Callable[[], T]) -> T:
        """The result of one long call (a sort, a group-by), run in a thread so that progress and `stop` go on."""
        return self.wait(background(work))

    def run_to_completion(self, work: Callable[[], T]) -> T:
        """`run` for work that writes files: a cancelled build waits for it to end before its folder is removed."""
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
    """Run `work` in a daemon thread of its own, which does not delay the end of the process."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - passed on to the waiting thread
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
