"""The catalog of datasets and artifacts. Both become visible only when complete: the row is written after the files are
renamed to their final place.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final
from uuid import UUID

import uuid_utils.compat as uuid7
from sqlalchemy import ColumnElement, Integer, Text, and_, bindparam, func, insert, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from jobs.db.tables import ArtifactRow, Dataset, Job, Json
from jobs.errors import ArtifactNotFound, DatasetBusy, DatasetNotFound
from jobs.record.history import lock_running
from jobs.record.queries import read_cursor, split_ref, write_cursor
from jobs.states import ACTIVE, BUILDING

# Statements of every submit are built once: building one takes as long as running it.
_LOCK: Final = select(func.pg_advisory_xact_lock(func.hashtextextended(bindparam("lock_key", type_=Text()), 0)))
_VERSION: Final = bindparam("version", type_=Integer())
_BY_REF: Final = (
    select(Dataset)
    .where(Dataset.name == bindparam("name"), or_(_VERSION.is_(None), Dataset.version == _VERSION))
    .order_by(Dataset.version.desc())
    .limit(1)
)
_BY_REF_NOT_DELETED: Final = _BY_REF.where(Dataset.deleted_at.is_(None))
_DELETED_AT_LOCKED: Final = (
    select(Dataset.deleted_at)
    .where(Dataset.name == bindparam("name"), Dataset.fingerprint == bindparam("fingerprint"))
    .with_for_update(read=True)
)


def advisory_lock(session: Session, kind: str, name: str) -> None:
    """Take the advisory lock of `kind` and `name` until the transaction ends."""
    session.execute(_LOCK, {"lock_key": f"{kind}:{name}"})


@dataclass(frozen=True, kw_only=True, slots=True)
class NewDataset:
    """A version of dataset `name` to register; `path` is that of its cache, relative to the run root."""

    name: str
    fingerprint: str
    spec: Json
    manifest: Json
    profile: Json
    leak_report: Json
    path: str
    size_bytes: int


def register_dataset(session: Session, job: Job, new: NewDataset) -> Dataset:
    """Register a version of a dataset, or return that with the same content; sets the job's fingerprint.

    All versions of this content take the description of the cache as it is now: it may have been built again, by newer
    code that writes other bytes.
    """
    advisory_lock(session, "dataset", new.name)
    of_name = select(Dataset).where(Dataset.name == new.name)
    existing = session.scalars(
        of_name.where(Dataset.fingerprint == new.fingerprint, Dataset.deleted_at.is_(None))
    ).one_or_none()
    if existing is None:
        newest = select(func.coalesce(func.max(Dataset.version), 0)).where(Dataset.name == new.name)
        version = (session.scalar(newest) or 0) + 1
        statement = insert(Dataset).values(**asdict(new), id=uuid7.uuid7(), version=version, job_id=job.id)
        existing = session.scalars(statement.returning(Dataset)).one()
    now = {name: getattr(new, name) for name in ("manifest", "profile", "leak_report", "size_bytes")}
    session.execute(update(Dataset).where(Dataset.path == new.path).values(**now, verified_at=func.now()))
    values = {"dataset": new.name, "dataset_fingerprint": new.fingerprint, "version": Job.version + 1}
    session.execute(
        update(Job).where(Job.id == job.id).values(values), execution_options={"synchronize_session": False}
    )
    return existing


def dataset(session: Session, ref: str) -> Dataset:
    """The newest version of dataset `name`, or the given one of `name@version`. Raises DatasetNotFound."""
    name, version = split_ref(ref)
    found = session.scalars(_BY_REF_NOT_DELETED, {"name": name, "version": version}).one_or_none()
    if found is None:
        deleted = session.scalars(_BY_REF, {"name": name, "version": version}).one_or_none()
        if deleted is not None and deleted.deleted_at is not None:
            raise DatasetNotFound(
                f"dataset {ref!r} was deleted on {deleted.deleted_at:%Y-%m-%d}: what its jobs left is kept; "
                "register the same files again to use it"
            )
        raise DatasetNotFound(f"there is no dataset {ref!r}: register it with POST /datasets")
    return found


def usage(session: Session, rows: Sequence[Dataset]) -> dict[UUID, tuple[int, int]]:
    """Of each dataset version, by id, the number of jobs and of unfinished jobs that use it; builds do not count."""
    of_name = dict.fromkeys((row.name, row.fingerprint) for row in rows)
    query = (
        select(Job.dataset, Job.dataset_fingerprint, func.count(), func.count().filter(Job.state.in_(ACTIVE)))
        .where(
            Job.kind.not_in(BUILDING),
            Job.dataset_fingerprint.in_({fingerprint for _, fingerprint in of_name}),
        )
        .group_by(Job.dataset, Job.dataset_fingerprint)
    )
    counts = {
        (name, fingerprint): (total, unfinished) for name, fingerprint, total, unfinished in session.execute(query)
    }
    return {row.id: counts.get((row.name, row.fingerprint), (0, 0)) for row in rows}


def versions_with_content(session: Session, fingerprint: str) -> list[Dataset]:
    """The versions with this fingerprint, of any name, newest first."""
    query = select(Dataset).where(Dataset.fingerprint == fingerprint, Dataset.deleted_at.is_(None))
    return list(session.scalars(query.order_by(Dataset.created_at.desc(), Dataset.id.desc())))


def datasets(session: Session, *, cursor: str | None = None, limit: int = 50) -> tuple[list[Dataset], str | None]:
    """One page of the newest versions of each name, newest first, and the cursor of the next page."""
    newest = (
        select(Dataset.id)
        .where(Dataset.deleted_at.is_(None))
        .ext(distinct_on(Dataset.name))
        .order_by(Dataset.name, Dataset.version.desc())
    )
    query = (
        select(Dataset)
        .where(Dataset.id.in_(newest))
        .order_by(Dataset.created_at.desc(), Dataset.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        query = query.where(tuple_(Dataset.created_at, Dataset.id) < tuple_(*read_cursor(cursor)))
    rows = list(session.scalars(query))
    more = len(rows) > limit
    return rows[:limit], write_cursor(rows[limit - 1].created_at, rows[limit - 1].id) if more else None


def dataset_versions(session: Session, name: str) -> list[tuple[Dataset, Job]]:
    """The versions of a name, newest first, each with the job that built it."""
    query = select(Dataset, Job).join(Job, Job.id == Dataset.job_id)
    of_name = query.where(Dataset.name == name, Dataset.deleted_at.is_(None)).order_by(Dataset.version.desc())
    return [(row, job) for row, job in session.execute(of_name)]


def _needs(name: str, version: Dataset | None) -> ColumnElement[bool]:
    """The condition that a job needs the dataset, or this version of it: builds too, which may produce its content."""
    of_name = func.split_part(Job.dataset, "@", 1) == name
    if version is None:
        return of_name
    return and_(of_name, or_(Job.dataset_fingerprint == version.fingerprint, Job.kind.in_(BUILDING)))


def delete_dataset(session: Session, ref: str) -> list[Dataset]:
    """Mark all versions of `name`, or the one of `name@version`, as deleted and return them. Raises DatasetNotFound,
    DatasetBusy.

    The rows remain: finished jobs refer to them, and a version's number is never reused.
    """
    name, version = split_ref(ref)
    query = select(Dataset).where(Dataset.name == name, Dataset.deleted_at.is_(None)).with_for_update()
    rows = list(session.scalars(query if version is None else query.where(Dataset.version == version)))
    if not rows:
        dataset(session, ref)  # raises DatasetNotFound with the reason
    needed = _needs(name, None if version is None else rows[0])
    busy = session.scalars(select(Job.id).where(Job.state.in_(ACTIVE), needed).order_by(Job.id).limit(6)).all()
    if busy:
        more = ", …" if len(busy) > 5 else ""
        raise DatasetBusy(
            f"unfinished jobs need dataset {ref!r}: {', '.join(map(str, busy[:5]))}{more}; wait for them or cancel them"
        )
    change = update(Dataset).where(Dataset.id.in_([row.id for row in rows])).values(deleted_at=func.now())
    session.execute(change, execution_options={"synchronize_session": False})
    return rows


def lock_version(session: Session, name: str, fingerprint: str) -> None:
    """Lock a dataset version against deletion until the transaction ends. Raises DatasetNotFound when it is deleted."""
    name = name.partition("@")[0]
    deleted = session.scalars(_DELETED_AT_LOCKED, {"name": name, "fingerprint": fingerprint}).all()
    if deleted and all(deleted):
        raise DatasetNotFound(f"dataset {name!r} was deleted")


def add_artifact(
    session: Session,
    job_id: UUID,
    attempt: int,
    *,
    name: str,
    path: str,
    size_bytes: int,
    sha256: str,
    media_type: str,
) -> None:
    """Register a complete file as an artifact; `path` is relative to the run root. It replaces an earlier artifact of
    the same name. Raises StaleAttempt.
    """
    lock_running(session, job_id, attempt)
    add_late_artifact(
        session, job_id, attempt, name=name, path=path, size_bytes=size_bytes, sha256=sha256, media_type=media_type
    )


def add_late_artifact(
    session: Session,
    job_id: UUID,
    attempt: int,
    *,
    name: str,
    path: str,
    size_bytes: int,
    sha256: str,
    media_type: str,
) -> None:
    """As `add_artifact`, of a job that has ended."""
    values = {
        "attempt": attempt,
        "path": path,
        "size_bytes": size_bytes,
        "sha256": sha256,
        "media_type": media_type,
        "created_at": func.now(),
        "verified_at": func.now(),
    }
    statement = postgresql.insert(ArtifactRow).values(job_id=job_id, name=name, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[ArtifactRow.job_id, ArtifactRow.name], set_=values))


def artifacts(session: Session, job_id: UUID) -> list[ArtifactRow]:
    """The artifacts of a job, by name."""
    return list(session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job_id).order_by(ArtifactRow.name)))


def artifact(session: Session, job_id: UUID, name: str) -> ArtifactRow:
    """One artifact of a job by name. Raises ArtifactNotFound."""
    row = session.get(ArtifactRow, (job_id, name))
    if row is None:
        raise ArtifactNotFound(f"job {job_id} has no artifact {name!r}")
    return row
