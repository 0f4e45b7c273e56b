"""How a job begins: one row, one event, and at most one job for one Idempotency-Key and body."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import uuid_utils.compat as uuid7
from sqlalchemy import func, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from jobs import history
from jobs.catalog import hold_dataset, lock_name
from jobs.errors import IdempotencyMismatch
from jobs.lookup import get, seconds_ago
from jobs.quotas import hold_jobs
from jobs.states import JobKind
from jobs.tables import Idempotency, Job, Json

DAY: Final = 86_400.0


@dataclass(frozen=True)
class Submitted:
    """`created` is false when an earlier submit with the same Idempotency-Key made the job."""

    job: Job
    created: bool


def submit(
    session: Session,
    *,
    kind: JobKind,
    spec: Json,
    spec_digest: str,
    queue: str,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    priority: int = 5,
    max_attempts: int = 3,
    dataset: str | None = None,
    dataset_fingerprint: str | None = None,
    parent_id: UUID | None = None,
    source_job_id: UUID | None = None,
    trial_number: int | None = None,
    params: Json | None = None,
    queue_timeout_seconds: float | None = None,
    created_by: str = "anonymous",
    idempotency: tuple[str, str] | None = None,
    overrides: Json | None = None,
    max_unfinished: int | None = None,
) -> Submitted:
    """Write a queued job. `idempotency` is (key, SHA-256 of the body); keys are `created_by`'s own and last a day.

    Raises IdempotencyMismatch when the key came with another body, DatasetNotFound when the dataset's version has
    just been deleted, QuotaExceeded when `created_by` has `max_unfinished` jobs that are not over.
    """
    if idempotency is not None:
        lock_name(session, "idempotency", f"{created_by}:{idempotency[0]}")
        before = earlier(session, created_by, *idempotency)
        if before is not None:
            return Submitted(before, created=False)
    if max_unfinished is not None:
        hold_jobs(session, created_by, max_unfinished)
    if dataset is not None and dataset_fingerprint is not None:
        hold_dataset(session, dataset, dataset_fingerprint)
    wait = queue_timeout_seconds
    deadline = None if wait is None else func.clock_timestamp() + timedelta(seconds=wait)
    job_id = uuid7.uuid7()
    statement = insert(Job).values(
        id=job_id,
        kind=kind,
        spec=spec,
        spec_digest=spec_digest,
        queue=queue,
        name=name,
        tags=dict(tags or {}),
        priority=priority,
        max_attempts=max_attempts,
        dataset=dataset,
        dataset_fingerprint=dataset_fingerprint,
        parent_id=parent_id,
        source_job_id=source_job_id,
        trial_number=trial_number,
        params=params,
        overrides=overrides or {},
        queue_deadline=deadline,
        created_by=created_by,
        last_seq=1,
        version=1,
    )
    parts = [history.first_event(job_id)]
    if idempotency is not None:
        parts.append(_remembered(created_by, *idempotency, job_id))
    for number, part in enumerate(parts):  # one statement: each round trip is a good part of what a submit takes
        statement = statement.add_cte(part.cte(f"part_{number}"))
    return Submitted(session.scalars(statement.returning(Job)).one(), created=True)


def _remembered(principal: str, key: str, body_sha256: str, job_id: UUID) -> postgresql.Insert:
    """The key, in place of one that a day has made useless: `lock_name` holds it, and no younger one was found."""
    values = {"body_sha256": body_sha256, "job_id": job_id, "created_at": func.now()}
    statement = postgresql.insert(Idempotency).values(principal=principal, key=key, **values)
    return statement.on_conflict_do_update(index_elements=[Idempotency.principal, Idempotency.key], set_=values)


def earlier(session: Session, principal: str, key: str, body_sha256: str) -> Job | None:
    """The job that this key and body have made within a day. Raises IdempotencyMismatch as `submit` does."""
    of_key = (Idempotency.principal == principal, Idempotency.key == key, Idempotency.created_at >= seconds_ago(DAY))
    row = session.scalars(select(Idempotency).where(*of_key)).one_or_none()
    if row is None:
        return None
    if row.body_sha256 != body_sha256:
        raise IdempotencyMismatch("this Idempotency-Key was used with another body: use a new key", "Idempotency-Key")
    return get(session, row.job_id)
