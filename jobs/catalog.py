"""Datasets and artifacts: what jobs leave behind. Both are visible only when whole: the row is written after the
rename.
"""

from collections.abc import Sequence
from uuid import UUID

import uuid_utils.compat as uuid7
from sqlalchemy import ColumnElement, func, insert, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from jobs.errors import ArtifactNotFound, DatasetBusy, DatasetNotFound
from jobs.history import current
from jobs.lookup import read_cursor, write_cursor
from jobs.states import ACTIVE
from jobs.tables import ArtifactRow, Dataset, Job, Json


def lock_name(session: Session, kind: str, name: str) -> None:
    """Until the end of the transaction nobody else does what is `kind` to `name`."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{kind}:{name}", 0))))


def register_dataset(
    session: Session,
    job: Job,
    *,
    name: str,
    fingerprint: str,
    spec: Json,
    manifest: Json,
    profile: Json,
    leak_report: Json,
    path: str,
    size_bytes: int,
) -> Dataset:
    """A new version of `name`, or the version that already has this content; the job shows its fingerprint."""
    lock_name(session, "dataset", name)
    of_name = select(Dataset).where(Dataset.name == name)
    known = session.scalars(
        of_name.where(Dataset.fingerprint == fingerprint, Dataset.deleted_at.is_(None))
    ).one_or_none()
    if known is None:
        version = session.scalar(select(func.coalesce(func.max(Dataset.version), 0) + 1).where(Dataset.name == name))
        statement = insert(Dataset).values(
            id=uuid7.uuid7(),
            name=name,
            version=version,
            fingerprint=fingerprint,
            spec=spec,
            manifest=manifest,
            profile=profile,
            leak_report=leak_report,
            path=path,
            size_bytes=size_bytes,
            job_id=job.id,
        )
        known = session.scalars(statement.returning(Dataset)).one()
    values = {"dataset": name, "dataset_fingerprint": fingerprint, "version": Job.version + 1}
    session.execute(
        update(Job).where(Job.id == job.id).values(values), execution_options={"synchronize_session": False}
    )
    return known


def dataset(session: Session, ref: str) -> Dataset:
    """`name` is its newest version, `name@version` that one. Raises DatasetNotFound."""
    name, at, version = ref.partition("@")
    query = (
        select(Dataset)
        .where(Dataset.name == name, Dataset.deleted_at.is_(None))
        .order_by(Dataset.version.desc())
        .limit(1)
    )
    if at:
        query = query.where(Dataset.version == (int(version) if version.isdecimal() and len(version) < 10 else -1))
    found = session.scalars(query).one_or_none()
    if found is None:
        raise DatasetNotFound(f"there is no dataset {ref!r}: register it with POST /datasets")
    return found


def datasets(session: Session, *, cursor: str | None = None, limit: int = 50) -> tuple[list[Dataset], str | None]:
    """The newest version of each name, newest first, with the cursor of the next page."""
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


def dataset_versions(session: Session, name: str) -> list[Dataset]:
    """Newest first."""
    query = select(Dataset).where(Dataset.name == name, Dataset.deleted_at.is_(None)).order_by(Dataset.version.desc())
    return list(session.scalars(query))


def _needs(name: str, fingerprints: Sequence[str]) -> ColumnElement[bool]:
    return or_(Job.dataset_fingerprint.in_(fingerprints), func.split_part(Job.dataset, "@", 1) == name)


def delete_dataset(session: Session, name: str) -> list[Dataset]:
    """Take every version of `name` out of use; returns those whose cache folder no other name shares.
    DatasetNotFound, DatasetBusy.
    """
    query = select(Dataset).where(Dataset.name == name, Dataset.deleted_at.is_(None)).with_for_update()
    rows = list(session.scalars(query))
    if not rows:
        raise DatasetNotFound(f"there is no dataset {name!r}")
    fingerprints = [row.fingerprint for row in rows]
    busy = session.scalars(select(Job.id).where(Job.state.in_(ACTIVE), _needs(name, fingerprints)).limit(5)).all()
    if busy:
        raise DatasetBusy(f"unfinished jobs need dataset {name!r}: {', '.join(map(str, busy))}")
    change = update(Dataset).where(Dataset.id.in_([row.id for row in rows])).values(deleted_at=func.now())
    session.execute(change, execution_options={"synchronize_session": False})
    shared = set(
        session.scalars(
            select(Dataset.fingerprint).where(Dataset.fingerprint.in_(fingerprints), Dataset.deleted_at.is_(None))
        )
    )
    return [row for row in rows if row.fingerprint not in shared]


def hold_dataset(session: Session, name: str, fingerprint: str) -> None:
    """Keep the version from being deleted until this transaction ends. Raises DatasetNotFound when that has
    happened already.
    """
    name = name.partition("@")[0]
    query = (
        select(Dataset.deleted_at)
        .where(Dataset.name == name, Dataset.fingerprint == fingerprint)
        .with_for_update(read=True)
    )
    deleted = session.scalars(query).all()
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
    """Make a whole file visible; `path` is relative to the run root. A later attempt's file takes the place of an
    earlier one's. Raises Stale.
    """
    current(session, job_id, attempt)
    values = {
        "attempt": attempt,
        "path": path,
        "size_bytes": size_bytes,
        "sha256": sha256,
        "media_type": media_type,
        "created_at": func.now(),
    }
    statement = postgresql.insert(ArtifactRow).values(job_id=job_id, name=name, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[ArtifactRow.job_id, ArtifactRow.name], set_=values))


def artifacts(session: Session, job_id: UUID) -> list[ArtifactRow]:
    return list(session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job_id).order_by(ArtifactRow.name)))


def artifact(session: Session, job_id: UUID, name: str) -> ArtifactRow:
    """Raises ArtifactNotFound."""
    row = session.get(ArtifactRow, (job_id, name))
    if row is None:
        raise ArtifactNotFound(f"job {job_id} has no artifact {name!r}")
    return row
