"""Streams a job's log as text, from its stored events or from the raw output file of one attempt."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC
from typing import Final
from uuid import UUID

from api.http.auth import Principal
from api.http.errors import Unavailable
from api.http.path_guard import existing_file
from api.http.service import AccessLost, Service, StreamAccess
from api.http.sse import Event, wait_for
from jobs.db.tables import JobEvent
from jobs.record import history, queries
from jobs.states import TERMINAL

WAIT_SECONDS: Final = 1.0
_CHUNK_BYTES: Final = 64 * 1024
_CONTROL_CHARACTERS: Final = {
    number: "\n    " if number == 10 else "\ufffd" for number in (*range(9), *range(10, 32), 127)
}
_COMMENT: Final = "# the database is unavailable, waiting\n"


def _format_line(event: Event | JobEvent) -> str:
    moment = event.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if event.kind == "log":
        text = f"{event.body.get('level', 'info')} {event.body.get('message', '')}"
    else:
        more = " ".join(str(event.body[name]) for name in ("reason", "message") if event.body.get(name))
        wanted = event.body.get("wanted", "run")
        wanted_note = f", wanted: {wanted}" if wanted != "run" else ""
        text = f"state {event.body.get('state', '')}{wanted_note}" + (f" ({more})" if more else "")
    return f"{moment} [{event.attempt}] {text.rstrip().translate(_CONTROL_CHARACTERS)}\n"


async def stream_record(
    service: Service, principal: Principal, job_id: UUID, *, follow: bool, tail: int | None = None
) -> AsyncIterator[str]:
    """State changes and log events, oldest first; with `tail` only so many of the stored ones."""
    after, access = 0, service.stream_access(principal)
    if tail is not None:
        events = await service.database.read(history.tail, job_id, tail)
        yield "".join(_format_line(event) for event in events)
        if not follow:
            return
        after = events[-1].seq if events else 0
    with service.open_stream(principal), service.pubsub.listen(job_id) as notified, contextlib.suppress(AccessLost):
        while not service.closing.is_set():
            notified.clear()
            try:
                await access.check()
                update = (await service.stream_batcher.read({job_id: after}))[job_id]
            except Unavailable:
                if not follow:
                    raise
                yield _COMMENT
                await asyncio.sleep(WAIT_SECONDS)
                continue
            after = update.events[-1].seq if update.events else after
            text = "".join(_format_line(event) for event in update.events if event.kind in ("log", "state"))
            if text:
                yield text
            if update.complete and (not follow or update.state in TERMINAL):
                return
            if update.complete:
                await wait_for(notified, 2 * WAIT_SECONDS)


async def stream_process_output(
    service: Service, principal: Principal, job_id: UUID, attempt: int, *, follow: bool
) -> AsyncIterator[bytes]:
    """The output of the attempt's processes. With `follow` the stream ends when the attempt has ended."""
    offset, access = 0, service.stream_access(principal)
    with service.open_stream(principal), contextlib.suppress(AccessLost):
        while not service.closing.is_set():
            over = (
                await _is_over(service, access, job_id, attempt) if follow else True
            )  # asked before reading: nothing written before is missed
            while chunk := await asyncio.to_thread(_read, service, job_id, attempt, offset):
                offset += len(chunk)
                yield chunk
            if over:
                return
            await asyncio.sleep(WAIT_SECONDS)


async def _is_over(service: Service, access: StreamAccess, job_id: UUID, attempt: int) -> bool:
    try:
        await access.check()
        job = await service.database.read(queries.get, job_id)
    except Unavailable:
        return False
    return job.state in TERMINAL or job.attempt > attempt


def _read(service: Service, job_id: UUID, attempt: int, offset: int) -> bytes:
    path = existing_file(service.job_folder(job_id), f"{attempt}/log.txt")
    if path is None:
        return b""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(_CHUNK_BYTES)
