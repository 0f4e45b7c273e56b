"""The database tables as SQLAlchemy models. The schema enforces its invariants: CHECKs, unique indexes, NOT NULL, and
the triggers of the migrations.
"""

from datetime import date, datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, MetaData, SmallInteger, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from atft.spec.kinds import KINDS
from jobs.db.columns import Best, Checkpoint, JobParams
from jobs.states import JobKind, JobState, Reason, Wanted

Json = dict[str, Any]
_VERIFIED = "when all bytes were last read and found whole; null: not since they were not"


def _one_of(column: str, values: type[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(v.value) for v in values)})"


def _text_enum(values: type[StrEnum], length: int = 20) -> sa.Enum:
    """An enum stored as text; its CHECK, where it has one, is separate, so that adding a value is a cheap migration."""
    return sa.Enum(
        values,
        native_enum=False,
        create_constraint=False,
        length=length,
        values_callable=lambda e: [m.value for m in e],
    )


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        Json: JSONB,
        datetime: sa.DateTime(timezone=True),
        str: Text,
        UUID: sa.Uuid,
        JobState: _text_enum(JobState),
        JobKind: _text_enum(JobKind),
        Wanted: _text_enum(Wanted),
        Reason: _text_enum(Reason, 40),
    }


class Job(Base):
    """One job of any kind; a study's trial has a `parent_id`. `attempt` is the fencing token: only the current attempt
    writes.
    """

    __tablename__ = "jobs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[JobKind]
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    source_job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    trial_number: Mapped[int | None]
    params: Mapped[JobParams | None] = mapped_column(JSONB)
    name: Mapped[str | None]
    tags: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    state: Mapped[JobState] = mapped_column(server_default=JobState.QUEUED.value)
    wanted: Mapped[Wanted] = mapped_column(server_default=Wanted.RUN.value)
    reason: Mapped[Reason | None]
    message: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(server_default="0")
    failures: Mapped[int] = mapped_column(server_default="0", comment="attempts that ended in a transient failure")
    max_attempts: Mapped[int] = mapped_column(server_default="3")
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="5")
    queue: Mapped[str]
    dataset: Mapped[str | None]
    dataset_fingerprint: Mapped[str | None]
    spec: Mapped[Json]
    spec_digest: Mapped[str]
    progress: Mapped[Json | None]
    metrics: Mapped[Json] = mapped_column(server_default=text("'{}'"), comment="latest value by name")
    best: Mapped[Best | None] = mapped_column(JSONB)
    baselines: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    evidence: Mapped[Json | None]
    checkpoint: Mapped[Checkpoint | None] = mapped_column(
        JSONB, comment="{path, step, epoch, sha256}: the last whole one, path under the job's folder"
    )
    last_seq: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="seq of the newest event: dense from 1"
    )
    child_seq: Mapped[int] = mapped_column(
        server_default="0", comment="the newest child event recorded of this attempt: replays end here"
    )
    version: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="the ETag: grows with every change a client may see"
    )
    overrides: Mapped[Json] = mapped_column(
        server_default=text("'{}'"),
        comment="{micro_batch_days}: how the next attempt differs from the spec without changing what it computes",
    )
    lease_until: Mapped[datetime | None]
    worker: Mapped[str | None]
    not_before: Mapped[datetime | None]
    queue_deadline: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(server_default="anonymous")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    queued_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    @property
    def run(self) -> Json:
        """The spec of what is trained: the job's spec, or the base of a study or ensemble. Earlier versions wrote a
        preflight for each extreme, without a base.
        """
        base: Json = self.spec.get("base", self.spec) if KINDS[self.kind].nested else self.spec
        return base

    @property
    def point(self) -> Json:
        """A trial's point of the study's space; {} for any other job."""
        return dict(self.params or {}) if KINDS[self.kind].of_study else {}

    __table_args__ = (
        CheckConstraint(_one_of("state", JobState), name="state"),
        CheckConstraint(_one_of("wanted", Wanted), name="wanted"),
        CheckConstraint(_one_of("reason", Reason), name="reason"),
        CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
        CheckConstraint(
            "(state IN ('succeeded','failed','cancelled','pruned')) = (finished_at IS NOT NULL)", name="finished"
        ),
        CheckConstraint("lease_until IS NULL OR state = 'running'", name="lease"),
        CheckConstraint("failures <= attempt", name="failures"),
        Index(
            "uq_jobs_parent_trial",
            "parent_id",
            "trial_number",
            unique=True,
            postgresql_where=text("trial_number IS NOT NULL"),
        ),
        Index("ix_jobs_queue", "queue", "priority", "created_at", postgresql_where=text("state = 'queued'")),
        Index("ix_jobs_lease", "lease_until", postgresql_where=text("state = 'running'")),
        # A search for a part of a name reads this index instead of the rows (docs/decisions/0021).
        Index(
            "ix_jobs_created",
            text("created_at DESC"),
            text("id DESC"),
            postgresql_include=["name", "kind", "dataset"],
        ),
        *(
            Index(f"ix_jobs_{column}_created", column, text("created_at DESC"), text("id DESC"))
            for column in ("dataset", "kind", "state")
        ),
        Index("ix_jobs_parent_id", "parent_id"),
        Index("ix_jobs_source_job_id", "source_job_id"),
        Index("ix_jobs_dataset_fingerprint", "dataset_fingerprint"),
        Index("ix_jobs_baselines", "dataset_fingerprint", "spec_digest", postgresql_where=text("kind = 'baselines'")),
        Index("ix_jobs_tags", "tags", postgresql_using="gin"),
        Index("ix_jobs_unfinished", "created_by", postgresql_where=text("finished_at IS NULL AND parent_id IS NULL")),
    )


class Attempt(Base):
    """One run of a job by a worker, and how it ended."""

    __tablename__ = "attempts"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str]
    host: Mapped[str]
    device: Mapped[str]
    pid: Mapped[int | None]
    resumed_from: Mapped[Checkpoint | None] = mapped_column(JSONB)
    overrides: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    started_at: Mapped[datetime] = mapped_column(default=func.clock_timestamp(), server_default=func.now())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(comment="succeeded, failed, cancelled, pruned, paused, requeued, lost")
    reason: Mapped[Reason | None]
    exit_code: Mapped[int | None]
    signal: Mapped[str | None]
    log_tail: Mapped[str | None]


class JobEvent(Base):
    """Durable history: `seq` is dense and increasing per job. `child_seq` makes a replayed child event a no-op."""

    __tablename__ = "events"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    attempt: Mapped[int]
    child_seq: Mapped[int | None]
    kind: Mapped[str] = mapped_column(comment="state, metrics, log")
    time: Mapped[datetime] = mapped_column(server_default=func.now())
    body: Mapped[Json]

    __table_args__ = (
        CheckConstraint("kind IN ('state','metrics','log')", name="kind"),
        Index(
            "uq_events_child",
            "job_id",
            "attempt",
            "child_seq",
            unique=True,
            postgresql_where=text("child_seq IS NOT NULL"),
        ),
    )


class Metric(Base):
    """One point of a metric; undefined is NULL. `step` is the epoch from 1, or the update for `step/…` names."""

    __tablename__ = "metrics"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    attempt: Mapped[int]
    value: Mapped[float | None] = mapped_column(sa.Double)
    time: Mapped[datetime] = mapped_column(server_default=func.now())


class DailyMetric(Base):
    """One metric of one day, by which comparisons pair jobs. `source` is a baseline's name, or '' for the job's own
    model.
    """

    __tablename__ = "daily_metrics"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    split: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    horizon: Mapped[int] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    value: Mapped[float | None] = mapped_column(sa.Double)


class ArtifactRow(Base):
    """A file of a job, complete: the row is written after its rename. `path` is relative to the run root."""

    __tablename__ = "artifacts"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    path: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    media_type: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    verified_at: Mapped[datetime | None] = mapped_column(server_default=func.now(), comment=_VERIFIED)


class Dataset(Base):
    """One version of a dataset. The same content under the same name is the same version."""

    __tablename__ = "datasets"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[int]
    fingerprint: Mapped[str]
    spec: Mapped[Json]
    manifest: Mapped[Json]
    profile: Mapped[Json]
    leak_report: Mapped[Json]
    path: Mapped[str] = mapped_column(comment="the cache folder, relative to the run root")
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]
    verified_at: Mapped[datetime | None] = mapped_column(server_default=func.now(), comment=_VERIFIED)

    __table_args__ = (
        Index("uq_datasets_version", "name", "version", unique=True),
        Index("uq_datasets_content", "name", "fingerprint", unique=True, postgresql_where=text("deleted_at IS NULL")),
        Index("ix_datasets_fingerprint", "fingerprint"),
    )


class Idempotency(Base):
    """The job that was created with an Idempotency-Key and body. Rows older than a day are deleted."""

    __tablename__ = "idempotency"

    principal: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """An API key. `quota` overrides some of the settings' limits: {jobs, streams, upload_bytes}."""

    __tablename__ = "keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    prefix: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]] = mapped_column(sa.ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    quota: Mapped[Json] = mapped_column(server_default=text("'{}'"))


class LoginSession(Base):
    """The login session of a browser: it has the rights of its key, while that is valid, until `expires_at`."""

    __tablename__ = "sessions"

    sha256: Mapped[str] = mapped_column(primary_key=True, comment="of the cookie")
    key_sha256: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]


class AuditRow(Base):
    """One entry of the audit log: who changed what, when and from where. Triggers make the table append-only."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger, sa.Identity(always=False), primary_key=True)
    time: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    who: Mapped[str]
    action: Mapped[str] = mapped_column(comment="method and route, or the command")
    target: Mapped[str]
    request_id: Mapped[str | None]
    address: Mapped[str | None]

    __table_args__ = (Index("ix_audit_who", "who", "id"),)


class Worker(Base):
    """A worker process and its last heartbeat. `name` is host, queue and device slot."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    queue: Mapped[str]
    device: Mapped[str]
    busy_with: Mapped[UUID | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_seen: Mapped[datetime] = mapped_column(server_default=func.now())
    problem: Mapped[str | None] = mapped_column(comment="why it takes no job")


class Store(Base):
    """The folder of files that belongs to this database: one row, whose `id` is also in the folder's `store.json`."""

    __tablename__ = "store"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    bound_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index("uq_store_one", text("(true)"), unique=True),)
