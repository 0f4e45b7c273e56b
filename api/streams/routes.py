"""Routes of live event streams (one job or several) and of logs. Errors are raised before a stream's first byte."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from sqlalchemy.orm import Session

from api.http import examples
from api.http.auth import Principal, Reader
from api.http.deps import MAX_INTEGER, JobId, ServiceDep, problems
from api.http.errors import Refused
from api.http.service import AccessLost, Service
from api.http.sse import Cursor, JobUpdate, event_stream, wait_for
from api.streams import logs
from jobs.record import queries
from jobs.states import TERMINAL

router = APIRouter(tags=["events"])
MAX_JOBS: Final = 50
NEWEST: Final = "newest"
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_SSE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "`event:` is state, metrics, log, progress or end; `data:` is an EventView; `id:` is its seq.",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": {"$ref": "#/components/schemas/EventView"},
                },
                "example": examples.SSE,
            }
        },
    },
    204: {"description": "Every job has ended, and the last event that the client saw was its last: do not come back."},
}
LastEventId = Annotated[
    str | None, Header(max_length=4000, description="the last `id:` that was received: the stream continues after it")
]


def _bad_id(text: str) -> Refused:
    return Refused(422, "invalid_request", f"{text[:100]!r} is not the id of an event of this stream")


def _seq(text: str, event_id: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise _bad_id(event_id)
    return int(text)


def _ended(session: Session, after: Mapping[UUID, int]) -> bool:
    jobs = [(queries.get(session, job_id), seq) for job_id, seq in after.items()]
    return all(job.state in TERMINAL and seq >= job.last_seq for job, seq in jobs)


def _newest(session: Session, jobs: Sequence[UUID]) -> dict[UUID, int]:
    return {job_id: queries.get(session, job_id).last_seq for job_id in jobs}


async def _stream(service: Service, principal: Principal, request: Request, cursor: Cursor) -> Response:
    if await service.database.read(_ended, cursor.after):
        return Response(status_code=204)
    if request.state.method == "HEAD":
        return Response(media_type="text/event-stream", headers=_HEADERS)
    service.check_stream_limit(principal)
    return StreamingResponse(_frames(service, principal, cursor), media_type="text/event-stream", headers=_HEADERS)


async def _frames(service: Service, principal: Principal, cursor: Cursor) -> AsyncIterator[bytes]:
    access = service.stream_access(principal)

    async def read(after: Mapping[UUID, int]) -> dict[UUID, JobUpdate]:
        notified.clear()  # before reading: a change during the read ends the next wait
        await access.check()
        return await service.stream_batcher.read(after)

    with (
        service.open_stream(principal),
        service.pubsub.listen(*cursor.after) as notified,
        contextlib.suppress(AccessLost),
    ):
        async for frame in event_stream(cursor, read, partial(wait_for, notified), service.closing):
            yield frame


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    summary="Follow one job",
    responses={**problems(404), **_SSE},
)
async def stream_job_events(
    job_id: JobId,
    request: Request,
    service: ServiceDep,
    principal: Reader,
    last_event_id: LastEventId = None,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_INTEGER, description="like Last-Event-ID, which takes precedence")
    ] = None,
) -> Response:
    """Server-sent events from the first or after Last-Event-ID: each once, in order; `event: end` at the end.

    `progress` events report the progress of the job; they are not stored and have no id.
    """
    start = after or 0
    if last_event_id:
        start = _seq(last_event_id.strip(), last_event_id)
    return await _stream(service, principal, request, Cursor(after={job_id: start}))


@router.get(
    "/events", response_class=StreamingResponse, summary="Follow several jobs", responses={**problems(404), **_SSE}
)
async def stream_events(
    request: Request,
    service: ServiceDep,
    principal: Reader,
    job: Annotated[
        list[UUID],
        Query(min_length=1, max_length=MAX_JOBS, description="the jobs; repeatable", examples=[[examples.JOB_ID]]),
    ],
    last_event_id: LastEventId = None,
    after: Annotated[
        str | None,
        Query(
            max_length=4000,
            description="like Last-Event-ID, which takes precedence; `newest`, or `job:newest`: only new events",
        ),
    ] = None,
) -> Response:
    """The events of up to 50 jobs in one stream. `id:` is `job:seq,…`, the last seq of each job; each has an `end`."""
    positions = dict.fromkeys(job, 0)
    text = last_event_id or after or ""
    newest = await service.database.read(_newest, job) if NEWEST in text else {}
    if text == NEWEST:
        positions, text = newest, ""
    for pair in text.split(","):
        if pair.strip():
            name, _colon, seq = pair.strip().partition(":")
            try:
                job_id = UUID(name)
            except ValueError as error:
                raise _bad_id(pair) from error
            if job_id in positions:
                positions[job_id] = newest[job_id] if seq == NEWEST else _seq(seq, pair)
    return await _stream(service, principal, request, Cursor(after=positions, multiple_jobs=True))


@router.get(
    "/jobs/{job_id}/logs",
    response_class=PlainTextResponse,
    tags=["results"],
    summary="A job's log",
    responses={
        **problems(404),
        200: {
            "description": "One line an event: time, attempt, level, message.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": examples.LOGS}},
        },
    },
)
async def get_logs(
    job_id: JobId,
    request: Request,
    service: ServiceDep,
    principal: Reader,
    follow: Annotated[bool, Query(description="stream until the job ends")] = False,
    source: Annotated[
        Literal["record", "process"],
        Query(description="stored events of every attempt, or the raw output of one attempt's processes"),
    ] = "record",
    attempt: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="for source=process; the newest by default")
    ] = None,
    tail: Annotated[int | None, Query(ge=1, le=10_000, description="for source=record; only its last lines")] = None,
) -> Response:
    """The log as text. With `follow=true` it streams and ends with the job."""
    job = await service.database.read(queries.get, job_id)
    if request.state.method == "HEAD":
        return PlainTextResponse("")
    if follow:
        service.check_stream_limit(principal)
    lines: AsyncIterator[str] | AsyncIterator[bytes]
    if source == "record":
        lines = logs.stream_record(service, principal, job_id, follow=follow, tail=tail)
    else:
        lines = logs.stream_process_output(service, principal, job_id, attempt or job.attempt, follow=follow)
    return StreamingResponse(lines, media_type="text/plain; charset=utf-8", headers=_HEADERS)
