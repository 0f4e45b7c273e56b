"""Dependencies and parameter types that routes share, and the error responses that they document."""

from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Request
from sqlalchemy.orm import Session

from api.http import examples
from api.http.errors import MEDIA_TYPE, Refused
from api.http.service import Service
from jobs.db.tables import Job
from jobs.record import queries
from jobs.record.queries import QueuePosition

MAX_INTEGER: Final = 2**63 - 1


async def service(request: Request) -> Service:
    """The application's Service."""
    found: Service = request.app.state.service
    return found


async def store_route_template(request: Request) -> None:
    """Store the route's path template, such as `/jobs/{job_id}`, for metrics and the audit log."""
    request.state.route = getattr(request.scope.get("route"), "path", "none")


async def require_json(request: Request) -> None:
    """Raises Refused (415) unless the Content-Type is application/json."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Refused(
            415, "unsupported_media_type", f"send application/json, not {media_type or 'a body without Content-Type'}"
        )


def expected_version(if_match: str | None) -> int | None:
    """The version that If-Match names; None when it names none. For a foreign tag -1, which matches none."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = [tag.strip().strip('"') for tag in if_match.split(",")]
    if len(tags) != 1 or not tags[0].isdecimal() or len(tags[0]) > 18:
        return -1
    return int(tags[0])


ServiceDep = Annotated[Service, Depends(service)]
JobId = Annotated[UUID, Path(description="the job's id", examples=[examples.JOB_ID])]
Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the previous page")]
Limit = Annotated[int, Query(ge=1, le=200, description="items per page")]
DryRun = Annotated[bool, Query(description="plan only: nothing is stored")]
IfMatch = Annotated[
    str | None, Header(max_length=200, description="ETag of the job; 412 if the job has another version")
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        examples=["0f6b1c0e-8d5c-4a39-9d5e-1b1f3f0b7a11"],
        description="for a day, a repeated request with this key returns the same job; 422 if its body differs",
    ),
]


def with_queue_position(session: Session, job: Job) -> tuple[Job, QueuePosition]:
    """The job with its position in its queue and why it is pending."""
    return job, queries.queue_position(session, job)


def get_job_with_queue_position(session: Session, job_id: UUID) -> tuple[Job, QueuePosition]:
    """Raises JobNotFound."""
    return with_queue_position(session, queries.get(session, job_id))


_PROBLEMS: Final = {
    400: (
        "The body is not JSON, or not the multipart form that it says it is; or the address has NUL characters.",
        "malformed_json",
        "the body is not JSON: Expecting value at character 0",
    ),
    401: (
        "No valid API key was sent.",
        "unauthorized",
        "send an API key: Authorization: Bearer <key>",
    ),
    403: (
        "The API key lacks the scope, or the request was sent by a page of another origin.",
        "forbidden",
        "this API key lacks the scope jobs:write",
    ),
    404: ("Not found.", "job_not_found", f"there is no job {examples.JOB_ID}"),
    409: (
        "The present state does not allow this.",
        "illegal_move",
        "the job is succeeded: it cannot be changed any more",
    ),
    410: (
        "The file's bytes are not those that were recorded.",
        "artifact_damaged",
        "artifact 'daily.parquet' is damaged on the server's disk: run the job again, or restore the file",
    ),
    412: (
        "The job has changed since the version in If-Match.",
        "precondition_failed",
        "the job has changed: its version is 12",
    ),
    413: ("The body is too large.", "body_too_large", "the body is larger than 1,000,000 bytes"),
    415: (
        "The Content-Type is not one that this route reads.",
        "unsupported_media_type",
        "send application/json, not text/plain",
    ),
    416: ("The file has no such range.", "range_not_satisfiable", "the file has no such range"),
    422: (
        "The request is well-formed but invalid: `errors` says where.",
        "invalid_request",
        examples.PROBLEM["detail"],
    ),
    429: (
        "The key has reached one of its limits; Retry-After says when to try again.",
        "quota_exceeded",
        "this key may have 10000 jobs that are not over, and has them: wait, or cancel some",
    ),
    503: (
        "Postgres cannot be reached; Retry-After says when to try again.",
        "database_unavailable",
        "the database cannot be reached at the moment",
    ),
    507: ("The disk is full.", "disk_full", "the server has no room for this upload; nothing was kept"),
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route, with examples: these statuses and those of every route that uses the database."""
    documented: dict[int | str, dict[str, Any]] = {}
    for status in sorted({400, 401, 403, 422, 429, 503, *statuses}):
        description, code, detail = _PROBLEMS[status]
        example = (
            examples.PROBLEM
            | {"title": HTTPStatus(status).phrase}
            | {
                "type": f"urn:atft:problem:{code}",
                "status": status,
                "code": code,
                "detail": detail,
            }
        )
        if status != 422:
            example |= {"errors": []}
        documented[status] = {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}},
        }
    return documented
