"""From a valid request to a queued job: one transaction, then a hint. The row is the job; the hint may be lost."""

import hashlib
import json
from collections.abc import Mapping
from uuid import UUID

from sqlalchemy.orm import Session

from api.auth import Principal
from api.database import AUDITED
from api.deps import with_position
from api.errors import invalid
from api.service import Service
from atft.spec.base import Spec
from jobs import store
from jobs.lookup import Position
from jobs.quotas import hold_upload
from jobs.states import JobKind
from jobs.tables import Job, Json


def refuse_nul(value: object, pointer: str = "") -> None:
    """Postgres stores no NUL character. Raises Refused (422) naming the field."""
    if isinstance(value, str) and "\x00" in value:
        raise invalid(pointer, "text must not contain NUL characters")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            refuse_nul(key, pointer)
            refuse_nul(inner, f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            refuse_nul(inner, f"{pointer}/{number}")


def body_sha256(kind: JobKind, body: Json) -> str:
    """Of what was asked, not of how it was spelled: equal requests are equal whatever their white space."""
    return hashlib.sha256(json.dumps([kind.value, body], sort_keys=True, separators=(",", ":")).encode()).hexdigest()


async def submit(
    service: Service,
    who: Principal,
    *,
    kind: JobKind,
    spec: Spec,
    queue: str,
    key: str | None,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    priority: int = 5,
    max_attempts: int = 3,
    queue_timeout_seconds: float | None = None,
    dataset: str | None = None,
    dataset_fingerprint: str | None = None,
    params: Json | None = None,
    source_job_id: UUID | None = None,
    content: Json | None = None,
) -> tuple[Job, Position]:
    """The job, committed and announced. `content` is what else makes the request's identity: an upload's hashes."""
    body = spec.model_dump(mode="json")
    await service.check_disk()
    identity = (key, body_sha256(kind, {"spec": body, "content": content})) if key is not None else None

    def write(session: Session) -> tuple[Job, bool, Position]:
        submitted = store.submit(
            session,
            kind=kind,
            spec=body,
            spec_digest=spec.digest(),
            queue=queue,
            name=name,
            tags=tags,
            priority=priority,
            max_attempts=max_attempts,
            dataset=dataset,
            dataset_fingerprint=dataset_fingerprint,
            params=params,
            source_job_id=source_job_id,
            queue_timeout_seconds=queue_timeout_seconds,
            created_by=who.name,
            idempotency=identity,
            max_unfinished=who.limits.jobs,
        )
        if submitted.created and "sources" in (params or {}):  # now that its size is known, and in turn
            hold_upload(session, who.name, 0, who.limits.upload_bytes)
        session.info[AUDITED] = f"/jobs/{submitted.job.id}"
        job, position = with_position(session, submitted.job)
        return job, submitted.created, position

    job, created, position = await service.database.write(write)
    if created:
        await service.announce(job)
    return job, position
