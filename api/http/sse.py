"""Server-sent events of jobs, read from the events table: the rows after the last sent one, then wait for a pub/sub
message or two seconds. No web framework here.

The table is the source of truth; a pub/sub message only triggers the next read. A lost message costs two seconds, and a
broken connection nothing: the client reconnects with Last-Event-ID. No database session is open while a stream waits.
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
MAX_ROWS_PER_READ: Final = 500  # of all positions together; each gets at least MIN_ROWS_PER_POSITION
MIN_ROWS_PER_POSITION: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One row of the events table."""

    seq: int
    kind: str
    time: datetime
    body: Json
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class JobUpdate:
    """The new events and the present state of one job. `complete` is false when more rows are waiting."""

    events: list[Event]
    complete: bool
    state: JobState
    reason: str | None
    last_seq: int
    progress: Json | None


def read_updates(session: Session, positions: Collection[StreamPosition]) -> dict[StreamPosition, JobUpdate]:
    """The update of each position; a job that does not exist is left out. The jobs are read before the events, so that
    a row inserted in between is found by the next read. The sum of rows is bounded: more positions get fewer rows each.
    """
    statuses = tailing.statuses(session, {job_id for job_id, _ in positions})
    behind = [
        (job_id, after) for job_id, after in positions if job_id in statuses and statuses[job_id].last_seq > after
    ]
    limit = max(MAX_ROWS_PER_READ // max(1, len(behind)), MIN_ROWS_PER_POSITION)
    events: dict[StreamPosition, list[Event]] = {position: [] for position in behind}
    for position, row in tailing.events_after(session, behind, limit):
        events[position].append(Event(seq=row.seq, kind=row.kind, time=row.time, body=row.body, attempt=row.attempt))
    found = {}
    for position in positions:
        job = statuses.get(position[0])
        if job is None:
            continue
        rows = events.get(position, [])
        found[position] = JobUpdate(
            events=rows,
            complete=(rows[-1].seq if rows else position[1]) >= job.last_seq,
            state=job.state,
            reason=job.reason.value if job.reason else None,
            last_seq=job.last_seq,
            progress=job.progress,
        )
    return found


@dataclass
class Cursor:
    """The last seq sent of each job. `event_id` is the SSE `id:`: the seq of one job, or `job:seq,…` of several."""

    after: dict[UUID, int]
    multiple_jobs: bool = False
    progress: dict[UUID, Json | None] = field(default_factory=dict)

    @property
    def event_id(self) -> str:
        if self.multiple_jobs:
            return ",".join(f"{job}:{seq}" for job, seq in self.after.items())
        return str(next(iter(self.after.values())))


def frame(kind: str, job_id: UUID, seq: int | None, moment: datetime, body: Json, event_id: str | None) -> bytes:
    """One server-sent event as bytes. `data:` is an EventView as JSON."""
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
    id_line = f"id: {event_id}\n" if event_id is not None else ""
    return f"event: {kind}\n{id_line}data: {data}\n\n".encode()


def _frames(job_id: UUID, update: JobUpdate, cursor: Cursor) -> list[bytes]:
    frames = []
    for event in update.events:
        cursor.after[job_id] = event.seq
        frames.append(frame(event.kind, job_id, event.seq, event.time, event.body, cursor.event_id))
    progress = update.progress
    if progress is not None and update.state is JobState.RUNNING and progress != cursor.progress.get(job_id):
        cursor.progress[job_id] = progress
        frames.append(frame("progress", job_id, None, datetime.now(UTC), progress, None))
    if update.complete and update.state in TERMINAL:
        body: Json = {"state": update.state.value, "reason": update.reason}
        frames.append(frame("end", job_id, update.last_seq, datetime.now(UTC), body, cursor.event_id))
    return frames


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def event_stream(
    cursor: Cursor,
    read: Callable[[Mapping[UUID, int]], Awaitable[dict[UUID, JobUpdate]]],
    wait: Callable[[float], Awaitable[None]],
    closing: asyncio.Event,
) -> AsyncIterator[bytes]:
    """Yield frames until every job has ended or the service closes. `wait(seconds)` returns early when a job may have
    changed.

    While the database is unreachable the stream stays open and sends a comment that says so.
    """
    open_jobs = set(cursor.after)
    last_sent = time.monotonic()
    yield b"retry: 2000\n\n"
    while open_jobs and not closing.is_set():
        complete = True
        try:
            found = await read({job: seq for job, seq in cursor.after.items() if job in open_jobs})
        except Unavailable:
            found = {}
            yield b": the database is unavailable, waiting\n\n"
            last_sent = time.monotonic()
        frames = []
        for job_id, update in found.items():
            frames += _frames(job_id, update, cursor)
            complete = complete and update.complete
            if update.complete and update.state in TERMINAL:
                open_jobs.discard(job_id)
        if frames:
            yield b"".join(frames)
            last_sent = time.monotonic()
        elif time.monotonic() - last_sent >= PING_SECONDS:
            yield b": ping\n\n"
            last_sent = time.monotonic()
        if open_jobs and complete:
            await wait(WAIT_SECONDS)
