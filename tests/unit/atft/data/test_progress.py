"""Progress reports of a build: ratios, waiting for threads, cancellation."""

import threading
from concurrent.futures import Future

import pytest

from atft.data.progress import BuildStopped, ProgressReporter, background
from atft.events import Event, Progress


def test_each_stage_is_reported_within_its_part_of_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atft.data.progress.REPORT_SECONDS", 0.0)
    seen: list[Event] = []
    progress = ProgressReporter(seen.append)
    progress.start_stage("reading", 0.2, rows=10)
    progress.update(0.5)
    progress.update(2.0)  # more than all of it counts as all of it
    progress.start_stage("features", 1.0)
    progress.update(0.25)
    reports = [e for e in seen if isinstance(e, Progress)]
    assert [e.stage for e in reports] == ["reading"] * 3 + ["features"] * 2
    assert [e.ratio for e in reports] == pytest.approx([0.0, 0.1, 0.2, 0.2, 0.4])
    assert [e.rows for e in reports] == [0, 5, 10, None, None]


def test_reports_are_limited_in_frequency() -> None:
    seen: list[Event] = []
    progress = ProgressReporter(seen.append)
    progress.start_stage("reading", 1.0)
    for step in range(100):
        progress.update(step / 100)
    assert len(seen) == 1


def test_run_returns_the_result_and_raises_the_error_of_its_work() -> None:
    progress = ProgressReporter()
    assert progress.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        progress.run(lambda: 1 / 0)
    assert progress.wait_all([background(lambda n=n: n) for n in range(3)]) == [0, 1, 2]


def test_a_cancelled_wait_raises_at_once_and_run_to_completion_only_after_its_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atft.data.progress.POLL_SECONDS", 0.001)
    never: Future[None] = Future()
    with pytest.raises(BuildStopped):
        ProgressReporter(stop=lambda: True).wait(never)
    cancelled, done = threading.Event(), threading.Event()

    def stop() -> bool:
        cancelled.set()
        return True

    def work() -> None:
        assert cancelled.wait(20)
        done.set()

    with pytest.raises(BuildStopped):
        ProgressReporter(stop=stop).run_to_completion(work)
    assert done.is_set()
