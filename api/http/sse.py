"""Server-sent events from the record: rows after the last seen, then a wake-up or two seconds. No web framework here.

The table is the truth and a wake-up only a reason to look: a lost one costs two seconds, and a cut socket nothing, for
the client comes back with Last-Event-ID. No database session is open while a stream waits.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from api.http.errors import Unavailable
from jobs.db.tables import Json
from jobs.record import tailing
from jobs.record.tailing import StreamPosition
from jobs.states import TERMINAL, JobState

WAIT_SECONDS: Final = 2.0
PING_SECONDS: Final = 15.0
BATCH: Final = 500  # rows of one look, at least LEAST a place
LEAST: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    seq: int
    kind: str
    time: datetime
    body: Json
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What one look at the record found for one job. `whole` is false when more rows are waiting."""

    lines: list[Line]
    whole: bool
    state: JobState
    reason: str | None
    last_seq: int
    progress: Json | None


def look(session: Session, places: Collection[StreamPosition]) -> dict[StreamPosition, News]:
    """The rows after each place; a job that is not there is left out. The jobs are read first: a row that comes later
    is found by the next look. Of many places at once each gets fewer rows, so that together they are bounded.
    """
    statuses = tailing.statuses(session, {job_id for job_id, _ in places})
    behind = [place for place in places if place[0] in statuses and statuses[place[0]].last_seq > place[1]]
    limit = max(BATCH // max(1, len(behind)), LEAST)
    lines: dict[StreamPosition, list[Line]] = {place: [] for place in behind}
    for place, row in tailing.events_after(session, behind, limit):
        lines[place].append(Line(seq=row.seq, kind=row.kind, time=row.time, body=row.body, attempt=row.attempt))
    found = {}
    for place in places:
        job = statuses.get(place[0])
        if job is None:
            continue
        rows = lines.get(place, [])
        found[place] = News(
            lines=rows,
            whole=(rows[-1].seq if rows else place[1]) >= job.last_seq,
            state=job.state,
            reason=job.reason.value if job.reason else None,
            last_seq=job.last_seq,
            progress=job.progress,
        )
    return found


@dataclass
class Cursor:
    """Where a stream stands. `label` is the SSE id: the seq of one job, or `job:seq,…` of several."""

    after: dict[UUID, int]
    many: bool = False
    progress: dict[UUID, Json | None] = field(default_factory=dict)

    @property
    def label(self) -> str:
        if self.many:
            return ",".join(f"{job}:{seq}" for job, seq in self.after.items())
        return str(next(iter(self.after.values())))


def frame(kind: str, job_id: UUID, seq: int | None, moment: datetime, body: Json, label: str | None) -> bytes:
    data = json.dumps(
        {
            "job_id": str(job_id),
            "seq": seq,
            "time": moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "body": body,
        },
        separators=(",", ":"),
        allow_nan=False,
    )
    identity = f"id: {label}\n" if label is not None else ""
    return f"event: {kind}\n{identity}data: {data}\n\n".encode()


def _frames(job_id: UUID, news: News, cursor: Cursor) -> list[bytes]:
    frames = []
    for line in news.lines:
        cursor.after[job_id] = line.seq
        frames.append(frame(line.kind, job_id, line.seq, line.time, line.body, cursor.label))
    if news.progress is not None and news.state is JobState.RUNNING and news.progress != cursor.progress.get(job_id):
        cursor.progress[job_id] = news.progress
        frames.append(frame("progress", job_id, None, datetime.now(UTC), news.progress, None))
    if news.whole and news.state in TERMINAL:
        body: Json = {"state": news.state.value, "reason": news.reason}
        frames.append(frame("end", job_id, news.last_seq, datetime.now(UTC), body, cursor.label))
    return frames


async def wait(woken: asyncio.Event, seconds: float) -> None:
    """Until there may be news, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await woken.wait()
    except TimeoutError:
        return


async def events(
    cursor: Cursor,
    read: Callable[[Mapping[UUID, int]], Awaitable[dict[UUID, News]]],
    wait: Callable[[float], Awaitable[None]],
    closing: asyncio.Event,
) -> AsyncIterator[bytes]:
    """Frames until every job has ended or the service closes. `wait(seconds)` returns early when there may be news.

    With the database away the stream stays open and says so in a comment.
    """
    open_jobs = set(cursor.after)
    spoke = time.monotonic()
    yield b"retry: 2000\n\n"
    while open_jobs and not closing.is_set():
        whole = True
        try:
            found = await read({job: seq for job, seq in cursor.after.items() if job in open_jobs})
        except Unavailable:
            found = {}
            yield b": the database is away, waiting\n\n"
            spoke = time.monotonic()
        frames = []
        for job_id, news in found.items():
            frames += _frames(job_id, news, cursor)
            whole = whole and news.whole
            if news.whole and news.state in TERMINAL:
                open_jobs.discard(job_id)
        if frames:
            yield b"".join(frames)
            spoke = time.monotonic()
        elif time.monotonic() - spoke >= PING_SECONDS:
            yield b": ping\n\n"
            spoke = time.monotonic()
        if open_jobs and whole:
            await wait(WAIT_SECONDS)
