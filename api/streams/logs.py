"""A job's log as text: from its durable events, or the raw output file of one attempt. Never a whole log in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC
from typing import Final
from uuid import UUID

from api.http.auth import Principal
from api.http.errors import Unavailable
from api.http.path_guard import under
from api.http.service import AccessLost, Service, StreamAccess
from api.http.sse import Event, wait_for
from jobs.db.tables import JobEvent
from jobs.record import history, queries
from jobs.states import TERMINAL

WAIT_SECONDS: Final = 1.0
_PIECE_BYTES: Final = 64 * 1024
_BREAKS: Final = {number: "\n    " if number == 10 else "\ufffd" for number in (*range(9), *range(10, 32), 127)}
_COMMENT: Final = "# the database is away, waiting\n"


def _text(line: Event | JobEvent) -> str:
    moment = line.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if line.kind == "log":
        words = f"{line.body.get('level', 'info')} {line.body.get('message', '')}"
    else:
        more = " ".join(str(line.body[name]) for name in ("reason", "message") if line.body.get(name))
        wish = line.body.get("wanted", "run")
        asked = f", wanted: {wish}" if wish != "run" else ""
        words = f"state {line.body.get('state', '')}{asked}" + (f" ({more})" if more else "")
    return f"{moment} [{line.attempt}] {words.rstrip().translate(_BREAKS)}\n"


async def record(
    service: Service, principal: Principal, job_id: UUID, *, follow: bool, tail: int | None = None
) -> AsyncIterator[str]:
    """State moves and log lines, oldest first; `tail` of them before what is new."""
    after, access = 0, service.stream_access(principal)
    if tail is not None:
        lines = await service.database.read(history.tail, job_id, tail)
        yield "".join(_text(line) for line in lines)
        if not follow:
            return
        after = lines[-1].seq if lines else 0
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
            text = "".join(_text(line) for line in update.events if line.kind in ("log", "state"))
            if text:
                yield text
            if update.complete and (not follow or update.state in TERMINAL):
                return
            if update.complete:
                await wait_for(notified, 2 * WAIT_SECONDS)


async def process(
    service: Service, principal: Principal, job_id: UUID, attempt: int, *, follow: bool
) -> AsyncIterator[bytes]:
    """What the attempt's processes wrote to their output. Following ends when this attempt is over."""
    position, access = 0, service.stream_access(principal)
    with service.open_stream(principal), contextlib.suppress(AccessLost):
        while not service.closing.is_set():
            over = (
                await _is_over(service, access, job_id, attempt) if follow else True
            )  # asked before reading: nothing written before is missed
            while piece := await asyncio.to_thread(_read, service, job_id, attempt, position):
                position += len(piece)
                yield piece
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


def _read(service: Service, job_id: UUID, attempt: int, position: int) -> bytes:
    path = under(service.job_folder(job_id), f"{attempt}/log.txt")
    if path is None:
        return b""
    with path.open("rb") as file:
        file.seek(position)
        return file.read(_PIECE_BYTES)
