"""Idempotent submission. Every submitting route reads: check, plan, insert, answer; a refusal may `replay`.

The job is inserted in one transaction; its hint is sent to the broker after the commit, and may get lost.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from fastapi import Depends, Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.http.auth import Principal
from api.http.deps import problems, require_json, with_queue_position
from api.http.errors import Refused, Unavailable, invalid
from api.http.service import Service
from api.jobs.schemas import SubmittedView
from api.jobs.views import submitted_view
from jobs.access import audit
from jobs.access.audit import AuditEntry
from jobs.db.tables import Job, Json
from jobs.errors import JobsError
from jobs.record import queries, submission
from jobs.record.queries import QueuePosition
from jobs.record.quotas import check_upload_quota
from jobs.record.submission import NewJob, Submitted
from jobs.states import JobKind

REFUSALS: Final = (Refused, JobsError)
RequestIdentity = tuple[str, str]  # an Idempotency-Key, and the SHA-256 of the request sent with it


def submit_route(plan: type[BaseModel], then: str = "The job, queued. `Location` is its address.") -> dict[str, Any]:
    """Decorator arguments of a route that takes a spec as JSON and returns its job, or with `dry_run=true` its plan."""
    return {
        "status_code": 202,
        "response_model": SubmittedView,
        "dependencies": [Depends(require_json)],
        "response_description": then,
        "responses": {
            **problems(413, 415),
            200: {"model": plan, "description": "With `dry_run=true`: the plan. Nothing is stored."},
        },
    }


def reject_nul(value: object, pointer: str = "") -> None:
    """Postgres stores no NUL character. Raises Refused (422) naming the field."""
    if isinstance(value, str) and "\x00" in value:
        raise invalid(pointer, "text must not contain NUL characters")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            reject_nul(key, pointer)
            reject_nul(inner, f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            reject_nul(inner, f"{pointer}/{number}")


def request_identity(key: str | None, kind: JobKind, requested: Json) -> RequestIdentity | None:
    """The identity of a request; None without a key. The digest is of the parsed request, not of its bytes, nor of what
    it resolves to now: a repeated request is the same when its dataset has a newer version or its study a better trial.
    """
    if key is None:
        return None
    text = json.dumps([kind.value, requested], sort_keys=True, separators=(",", ":"))
    return key, hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """What every submitting request brings; the headers of its answer are set on `response`."""

    service: Service
    principal: Principal
    audit: AuditEntry
    response: Response
    idempotency_key: str | None
    dry_run: bool = False

    def identity(self, kind: JobKind, requested: Json) -> RequestIdentity | None:
        """None also for a dry run, which stores nothing."""
        return None if self.dry_run else request_identity(self.idempotency_key, kind, requested)


@dataclass(frozen=True, slots=True)
class Inserted:
    """A committed job; `created` is false for that of an earlier request with the same identity."""

    job: Job
    created: bool
    position: QueuePosition


async def insert(request: SubmitRequest, new: NewJob, identity: RequestIdentity | None) -> Inserted:
    """Insert a job of the request's principal, or find that of an earlier request with the same identity."""
    await request.service.check_disk()
    new = replace(new, created_by=request.principal.name)
    return await request.service.database.write(_insert, request, new, identity)


def _insert(session: Session, request: SubmitRequest, new: NewJob, identity: RequestIdentity | None) -> Inserted:
    limits = request.principal.limits
    submitted = submission.submit(session, new, idempotency=identity, max_unfinished=limits.jobs)
    # Again: only now is the size of the upload known, and are submits of one key serialised.
    if submitted.created and "sources" in (new.params or {}):
        check_upload_quota(session, new.created_by, 0, limits.upload_bytes)
    return record_submission(session, request, submitted)


def record_submission(session: Session, request: SubmitRequest, submitted: Submitted) -> Inserted:
    """Record the submission in the audit log, in the transaction of the insert."""
    audit.record(session, request.audit.with_target(f"/jobs/{submitted.job.id}"))
    return Inserted(submitted.job, submitted.created, queries.queue_position(session, submitted.job))


async def answer(request: SubmitRequest, inserted: Inserted, warnings: Sequence[str] = ()) -> SubmittedView:
    """Send the hint of a new job and return the view of the job."""
    if inserted.created:
        await request.service.send_hint(inserted.job)
    return submitted_view(request.response, inserted.job, inserted.position, list(warnings))


async def replay(
    request: SubmitRequest, identity: RequestIdentity | None, refusal: Refused | JobsError
) -> SubmittedView:
    """The job of an earlier request with the same identity, in the place of a refusal: what was accepted once stays
    accepted. Raises the refusal when there is none.
    """
    if identity is None or isinstance(refusal, Unavailable):
        raise refusal
    earlier = await request.service.database.read(_find_earlier, request.principal.name, identity)
    if earlier is None:
        raise refusal
    return submitted_view(request.response, *earlier, [])


def _find_earlier(session: Session, principal: str, identity: RequestIdentity) -> tuple[Job, QueuePosition] | None:
    job = submission.find_idempotent(session, principal, *identity)
    return None if job is None else with_queue_position(session, job)


def plan_response(plan: BaseModel) -> Response:
    """The answer to a dry run."""
    return Response(plan.model_dump_json(), media_type="application/json")
