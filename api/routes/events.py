"""Live: events of one job or of several, and logs. What can fail is checked before the first byte of a stream."""

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from sqlalchemy.orm import Session

from api import examples, logs
from api.auth import Principal, Reader
from api.deps import MAX_INTEGER, JobId, ServiceDep, problems
from api.errors import Refused
from api.service import Service
from api.stream import Cursor, News, events, look, wait
from jobs import store
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
    str | None, Header(max_length=4000, description="the last `id:` that was seen: the stream goes on after it")
]


def _bad_id(text: str) -> Refused:
    return Refused(422, "invalid_request", f"{text[:100]!r} is not the id of an event of this stream")


def _seq(text: str, whole: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise _bad_id(whole)
    return int(text)


def _ended(session: Session, after: Mapping[UUID, int]) -> bool:
    jobs = [(store.get(session, job_id), seq) for job_id, seq in after.items()]
    return all(job.state in TERMINAL and seq >= job.last_seq for job, seq in jobs)


def _newest(session: Session, jobs: Sequence[UUID]) -> dict[UUID, int]:
    return {job_id: store.get(session, job_id).last_seq for job_id in jobs}


async def _stream(service: Service, who: Principal, request: Request, cursor: Cursor) -> Response:
