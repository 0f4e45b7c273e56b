"""The event stream over a fake record: order, end, progress, an unavailable database."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from api.http import sse
from api.http.errors import Unavailable
from api.http.sse import Cursor, Event, JobUpdate, event_stream
from jobs.states import JobState

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


class Record:
    """The results of successive reads; the last is repeated."""

    def __init__(self, *reads: tuple[int, JobState, dict[str, Any] | None] | None, batch: int = 500) -> None:
        self.reads = list(reads)
        self.batch = batch

    async def read(self, wanted: Mapping[UUID, int]) -> dict[UUID, JobUpdate]:
        read = self.reads.pop(0) if len(self.reads) > 1 else self.reads[0]
        if read is None:
            raise Unavailable
        last, state, progress = read
        found = {}
        for job_id, after in wanted.items():
            seqs = range(after + 1, min(last, after + self.batch) + 1)
            lines = [Event(seq=seq, kind="log", time=NOW, body={"message": f"line {seq}"}, attempt=1) for seq in seqs]
            complete = (lines[-1].seq if lines else after) >= last
            found[job_id] = JobUpdate(
                events=lines, complete=complete, state=state, reason=None, last_seq=last, progress=progress
            )
        return found


async def no_wait(_seconds: float) -> None:
    await asyncio.sleep(0)


def collect(
    record: Record, cursor: Cursor, closing: asyncio.Event | None = None, limit: int = 1000
) -> list[dict[str, str]]:
    async def run() -> str:
        text = b""
        async for piece in event_stream(cursor, record.read, no_wait, closing or asyncio.Event()):
            text += piece
            limit_left[0] -= 1
            if limit_left[0] == 0:
                break
        return text.decode()

    limit_left = [limit]
    frames = []
    for block in asyncio.run(run()).split("\n\n"):
        lines = [line.split(": ", 1) for line in block.splitlines()]
        frames.append({name or "comment": value for name, value in lines})
    return [frame for frame in frames if frame and "retry" not in frame]


def test_each_event_once_in_order_then_end() -> None:
    job = uuid4()
    record = Record((2, JobState.RUNNING, None), (2, JobState.RUNNING, None), (5, JobState.SUCCEEDED, None))
    frames = collect(record, Cursor(after={job: 0}))
    assert [frame["id"] for frame in frames] == ["1", "2", "3", "4", "5", "5"]
    assert [frame["event"] for frame in frames] == ["log"] * 5 + ["end"]
    assert json.loads(frames[0]["data"]) == {
        "job_id": str(job),
        "seq": 1,
        "time": "2026-01-02T03:04:05.678Z",
        "body": {"message": "line 1"},
    }
    assert json.loads(frames[-1]["data"])["body"] == {"state": "succeeded", "reason": None}


def test_end_waits_for_rows_beyond_one_batch() -> None:
    frames = collect(Record((7, JobState.FAILED, None), batch=3), Cursor(after={uuid4(): 0}))
    assert [frame["id"] for frame in frames] == ["1", "2", "3", "4", "5", "6", "7", "7"]
    assert frames[-1]["event"] == "end"


def test_resumes_after_the_last_event_id() -> None:
    frames = collect(Record((5, JobState.SUCCEEDED, None)), Cursor(after={uuid4(): 3}))
    assert [frame["id"] for frame in frames] == ["4", "5", "5"]


def test_progress_has_no_id_and_is_sent_when_it_changes() -> None:
    half, more = {"ratio": 0.5}, {"ratio": 0.7}
    reads = [
        (1, JobState.RUNNING, half),
        (1, JobState.RUNNING, half),
        (1, JobState.RUNNING, more),
        (2, JobState.SUCCEEDED, more),
    ]
    frames = collect(Record(*reads), Cursor(after={uuid4(): 0}))
    sent = [frame for frame in frames if frame["event"] == "progress"]
    assert [json.loads(frame["data"])["body"] for frame in sent] == [half, more]
    assert all("id" not in frame for frame in sent)


def test_an_unavailable_database_is_a_comment_and_the_stream_continues() -> None:
    frames = collect(
        Record((1, JobState.RUNNING, None), None, None, (2, JobState.CANCELLED, None)), Cursor(after={uuid4(): 0})
    )
    assert [frame.get("event", "comment") for frame in frames] == ["log", "comment", "comment", "log", "end"]


def test_several_jobs_in_one_stream() -> None:
    first, second = uuid4(), uuid4()
    frames = collect(Record((2, JobState.SUCCEEDED, None)), Cursor(after={first: 1, second: 0}, multiple_jobs=True))
    assert frames[0]["id"] == f"{first}:2,{second}:0"
    assert frames[-1]["id"] == f"{first}:2,{second}:2"
    assert [frame["event"] for frame in frames].count("end") == 2


def test_ping_when_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_SECONDS", 0.0)
    frames = collect(Record((0, JobState.QUEUED, None)), Cursor(after={uuid4(): 0}), limit=3)
    assert frames == [{"comment": "ping"}, {"comment": "ping"}]


def test_ends_when_the_service_closes() -> None:
    closing = asyncio.Event()
    closing.set()
    assert collect(Record((1, JobState.RUNNING, None)), Cursor(after={uuid4(): 0}), closing) == []


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\x0c"])
def test_a_frame_is_three_lines_whatever_its_text(letter: str) -> None:
    """Characters at which a reader that uses str.splitlines would cut the data."""
    text = sse.frame("log", uuid4(), 7, NOW, {"message": f"a{letter}b"}, "7").decode()
    kind, id_line, data, end = text.splitlines()
    assert (kind, id_line, end) == ("event: log", "id: 7", "")
    assert json.loads(data.removeprefix("data: "))["body"] == {"message": f"a{letter}b"}
