"""One event as a line of a job's log."""

from datetime import UTC, datetime

import pytest

from api.http.sse import Event
from api.streams.logs import _format_line
from jobs.db.tables import Json

TIME = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("log", {"message": "hello"}, "info hello"),
        ("log", {"level": "warning", "message": "a\nb\x1b[0m"}, "warning a\n    b\ufffd[0m"),
        ("state", {"state": "running", "wanted": "run"}, "state running"),
        ("state", {"state": "running", "wanted": "pause"}, "state running, wanted: pause"),
        ("state", {"state": "failed", "reason": "oom_host", "message": "killed"}, "state failed (oom_host killed)"),
    ],
)
def test_a_line_has_time_attempt_and_text(kind: str, body: Json, text: str) -> None:
    event = Event(seq=1, kind=kind, time=TIME, body=body, attempt=2)
    assert _format_line(event) == f"2026-01-02T03:04:05.678Z [2] {text}\n"
