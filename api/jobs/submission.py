"""Idempotent submission: insert a job in one transaction, then send its hint to the broker, which may get lost."""

import hashlib
import json
from collections.abc import Awaitable, Mapping
from typing import Any
from uuid import UUID

from fastapi import Depends, Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.http.auth import Principal
from api.http.database import AUDIT_TARGET
from api.http.deps import problems, require_json, with_queue_position
from api.http.errors import Refused, Unavailable, invalid
from api.http.service import Service
from api.jobs.schemas import SubmittedView
from api.jobs.views import submitted_view
from atft.spec.base import Spec
from jobs.db.tables import Job, Json
from jobs.errors import JobsError
from jobs.record import submission
from jobs.record.queries import QueuePosition
from jobs.record.quotas import check_upload_quota
from jobs.states import JobKind

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


async def replay_on_refusal(
    service: Service,
    principal: Principal,
    identity: RequestIdentity | None,
    response: Response,
    creating: Awaitable[SubmittedView | Response],
) -> SubmittedView | Response:
    """The result of `creating`. If that is refused, the job of an earlier request with the same identity, if any."""
    try:
        return await creating
    except (Refused, JobsError) as refusal:
        if identity is None or isinstance(refusal, Unavailable):
            raise
        earlier = await service.database.read(_find_earlier, principal.name, identity)
        if earlier is None:
            raise
        return submitted_view(response, *earlier, [])


def _find_earlier(session: Session, principal: str, identity: RequestIdentity) -> tuple[Job, QueuePosition] | None:
    job = submission.find_idempotent(session, principal, *identity)
    return None if job is None else with_queue_position(session, job)


async def submit(
    service: Service,
    principal: Principal,
    *,
    kind: JobKind,
    spec: Spec,
    queue: str,
    identity: RequestIdentity | None,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    priority: int = 5,
    max_attempts: int = 3,
    queue_timeout_seconds: float | None = None,
    dataset: str | None = None,
    dataset_fingerprint: str | None = None,
    params: Json | None = None,
    source_job_id: UUID | None = None,
) -> tuple[Job, QueuePosition]:
    """The committed job, its hint sent: a new one, or that of an earlier request with the same `identity`."""
    body = spec.model_dump(mode="json")
    await service.check_disk()

    def write(session: Session) -> tuple[Job, bool, QueuePosition]:
        new = submission.NewJob(
            kind=kind,
            spec=body,
            spec_digest=spec.digest(),
            queue=queue,
            name=name,
            tags=tags or {},
            priority=priority,
            max_attempts=max_attempts,
            dataset=dataset,
            dataset_fingerprint=dataset_fingerprint,
            params=params,
            source_job_id=source_job_id,
            queue_timeout_seconds=queue_timeout_seconds,
            created_by=principal.name,
        )
        submitted = submission.submit(session, new, idempotency=identity, max_unfinished=principal.limits.jobs)
        # Again: only now is the size of the upload known, and are submits of one key serialised.
        if submitted.created and "sources" in (params or {}):
            check_upload_quota(session, principal.name, 0, principal.limits.upload_bytes)
        session.info[AUDIT_TARGET] = f"/jobs/{submitted.job.id}"
        job, position = with_queue_position(session, submitted.job)
        return job, submitted.created, position

    job, created, position = await service.database.write(write)
    if created:
        await service.send_hint(job)
    return job, position
