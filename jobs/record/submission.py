"""Submission of jobs: inserts the row and its first event, at most once per Idempotency-Key and body."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

import uuid_utils.compat as uuid7
from sqlalchemy import Executable, Interval, Uuid, bindparam, func, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from jobs.db.columns import JobParams
from jobs.db.tables import Base, Idempotency, Job, Json
from jobs.errors import IdempotencyMismatch
from jobs.record import history
from jobs.record.catalog import advisory_lock, lock_version
from jobs.record.queries import get, seconds_ago
from jobs.record.quotas import check_job_quota
from jobs.states import JobKind

DAY: Final = 86_400.0
_COPIED: Final = (  # from NewJob to the row
    "kind", "spec", "spec_digest", "queue", "name", "tags", "priority", "max_attempts", "dataset",
    "dataset_fingerprint", "parent_id", "source_job_id", "trial_number", "params", "overrides", "created_by",
)  # fmt: skip


def _insert_statement(*, idempotent: bool) -> Executable:
    """The INSERT of a job, its first event and, if `idempotent`, its Idempotency-Key. It is one statement because each
    round trip is a good part of a submit's time, and built once because building is too.
    """
    job_id = bindparam("new_id", type_=Uuid())
    row = Base.metadata.tables[Job.__tablename__]
    statement = insert(row).values({name: bindparam(f"new_{name}") for name in ("id", *_COPIED)})
    wait = bindparam("wait", type_=Interval())
    statement = statement.values(queue_deadline=func.clock_timestamp() + wait, last_seq=1, version=1)
    statement = statement.add_cte(history.first_event(job_id).cte("event"))
    if idempotent:
        # Replaces an expired key: the caller holds its advisory lock and has found no valid one.
        values = {"body_sha256": bindparam("body_sha256"), "job_id": job_id, "created_at": func.now()}
        owner: Json = {"principal": bindparam("new_created_by"), "key": bindparam("key")}
        keys = postgresql.insert(Idempotency).values(owner | values)
        replaced = keys.on_conflict_do_update(index_elements=[Idempotency.principal, Idempotency.key], set_=values)
        statement = statement.add_cte(replaced.cte("idempotent"))
    return select(Job).from_statement(statement.returning(row))


_INSERT: Final = _insert_statement(idempotent=False)
_INSERT_IDEMPOTENT: Final = _insert_statement(idempotent=True)
_BY_IDEMPOTENCY_KEY: Final = select(Idempotency.body_sha256, Idempotency.job_id).where(
    Idempotency.principal == bindparam("principal"),
    Idempotency.key == bindparam("key"),
    Idempotency.created_at >= seconds_ago(DAY),
)


@dataclass(frozen=True)
class Submitted:
    """The submitted job; `created` is false when an earlier submit with the same Idempotency-Key has created it."""

    job: Job
    created: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """A job to insert. `created_by` is the principal whose quota and Idempotency-Keys count."""

    kind: JobKind
    spec: Json
    spec_digest: str
    queue: str
    name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    priority: int = 5
    max_attempts: int = 3
    queue_timeout_seconds: float | None = None
    dataset: str | None = None
    dataset_fingerprint: str | None = None
    parent_id: UUID | None = None
    source_job_id: UUID | None = None
    trial_number: int | None = None
    params: JobParams | Json | None = None  # a trial's is its point
    overrides: Json = field(default_factory=dict)
    created_by: str = "anonymous"


def submit(
    session: Session, new: NewJob, *, idempotency: tuple[str, str] | None = None, max_unfinished: int | None = None
) -> Submitted:
    """Insert a queued job. `idempotency` is (key, SHA-256 of the body); a key is valid for one principal and one day.

    Raises IdempotencyMismatch when the key came with another body, DatasetNotFound when the dataset's version has
    just been deleted, QuotaExceeded when the principal has `max_unfinished` unfinished jobs.
    """
    if idempotency is not None:
        advisory_lock(session, "idempotency", f"{new.created_by}:{idempotency[0]}")
        earlier = find_idempotent(session, new.created_by, *idempotency)
        if earlier is not None:
            return Submitted(earlier, created=False)
    if max_unfinished is not None:
        check_job_quota(session, new.created_by, max_unfinished)
    if new.dataset is not None and new.dataset_fingerprint is not None:
        lock_version(session, new.dataset, new.dataset_fingerprint)
    values: Json = {f"new_{column}": getattr(new, column) for column in _COPIED}
    wait = None if new.queue_timeout_seconds is None else timedelta(seconds=new.queue_timeout_seconds)
    values |= {"new_id": uuid7.uuid7(), "new_tags": dict(new.tags), "wait": wait}
    if idempotency is None:
        return Submitted(session.scalars(_INSERT, values).one(), created=True)
    values |= {"key": idempotency[0], "body_sha256": idempotency[1]}
    return Submitted(session.scalars(_INSERT_IDEMPOTENT, values).one(), created=True)


def find_idempotent(session: Session, principal: str, key: str, body_sha256: str) -> Job | None:
    """The job created with this key and body within the last day, or null. Raises IdempotencyMismatch."""
    row = session.execute(_BY_IDEMPOTENCY_KEY, {"principal": principal, "key": key}).one_or_none()
    if row is None:
        return None
    if row.body_sha256 != body_sha256:
        raise IdempotencyMismatch("this Idempotency-Key was used with another body: use a new key", "Idempotency-Key")
    return get(session, row.job_id)
