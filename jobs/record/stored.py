"""Stored files compared with what their rows say of them: caches, artifacts, checkpoints."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Text, all_, and_, func, literal, or_, select, true, update
from sqlalchemy.orm import Session

from atft.checksums import Checksums, sha256_of
from jobs.db.tables import ArtifactRow, Dataset, Job

MANIFEST: Final = "manifest.json"
REPORT: Final = "report.json"
READ_BY_OTHERS: Final = ("config.json", "evidence.json")  # artifacts that other jobs read beside weights
Row = Dataset | ArtifactRow


def version_of(session: Session, job: Job) -> Dataset | None:
    """The dataset version whose cache a job reads, deleted or not, of its name if there is one; null for a build."""
    query = select(Dataset).where(Dataset.fingerprint == job.dataset_fingerprint)
    order = ((Dataset.name == (job.dataset or "")).desc(), Dataset.deleted_at.desc(), Dataset.created_at.desc())
    return session.scalars(query.order_by(*order).limit(1)).one_or_none()


def current(session: Session, row: Row) -> Row | None:
    """The row as it is now; None when it is gone."""
    key = row.id if isinstance(row, Dataset) else (row.job_id, row.name)
    return cast("Row | None", session.get(type(row), key))


def artifacts_for_others(session: Session, job_id: UUID, weights: Iterable[str]) -> Sequence[ArtifactRow]:
    """The artifacts of a job that a prediction or a training with `init_from` reads, if it uses these weights."""
    names = ArtifactRow.name.in_([*READ_BY_OTHERS, *weights])
    return session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job_id, names)).all()


def promised(row: Row) -> dict[str, str]:
    """The SHA-256 of each file of a row, by its path relative to the run root."""
    if isinstance(row, ArtifactRow):
        return {row.path: row.sha256}
    return {f"{row.path}/{name}": entry["sha256"] for name, entry in row.manifest.get("files", {}).items()}


def damaged(run_root: Path, row: Row, checksums: Checksums) -> str | None:
    """The name of the first file of the row that is missing or not what it was; None when all are whole.

    A row whose files have not been read whole since they were last found damaged is not taken from memory.
    """
    if isinstance(row, Dataset) and (name := damaged_json(run_root, row)) is not None:
        return name
    files = promised(row)
    if not files:  # nothing says what its bytes were
        return MANIFEST
    for path, sha256 in files.items():
        try:
            found = checksums.sha256(run_root / path, reread=row.verified_at is None)
        except OSError:
            found = None
        if found != sha256:
            return Path(path).name
    return None


def damaged_json(run_root: Path, version: Dataset) -> str | None:
    """The name of the cache's JSON file whose content is not that of the row; None when both are."""
    folder = run_root / version.path
    try:
        if not agrees(json.loads((folder / MANIFEST).read_bytes()), version.manifest):
            return MANIFEST
    except (OSError, ValueError, RecursionError):
        return MANIFEST
    try:
        report = json.loads((folder / REPORT).read_bytes())
        whole = agrees(report["profile"], version.profile) and agrees(report["leak_report"], version.leak_report)
    except FileNotFoundError:  # caches of before have none
        return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return REPORT
    return None if whole else REPORT


def agrees(found: Any, expected: Any) -> bool:
    """Whether all that was found is expected. Rows of newer code may have fields that an older file lacks."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return all(key in expected and agrees(value, expected[key]) for key, value in found.items())
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(agrees, found, expected))
    if {type(found), type(expected)} == {int, float}:  # Postgres returns 3.4e+38 as an integer of 39 digits
        return float(str(found)) == float(str(expected))  # by way of text, no integer is too large
    return isinstance(found, bool) == isinstance(expected, bool) and bool(found == expected)


def checkpoint_is_whole(folder: Path, sha256: str) -> bool:
    """Whether a checkpoint has its manifest, of this SHA-256, and every file that the manifest names."""
    try:
        text = (folder / MANIFEST).read_bytes()
        if hashlib.sha256(text).hexdigest() != sha256:
            return False
        files = cast("dict[str, dict[str, str]]", json.loads(text)["files"])
        return all(sha256_of(folder / name) == entry["sha256"] for name, entry in files.items())
    except OSError:
        return False


def record_read(session: Session, rows: Iterable[Row], *, whole: bool) -> None:
    """Note on rows that all of their bytes were just read and found whole, or not."""
    now = func.clock_timestamp() if whole else None
    for row in rows:
        if isinstance(row, Dataset):
            change = update(Dataset).where(Dataset.path == row.path).values(verified_at=now)
        else:
            change = update(ArtifactRow).where(ArtifactRow.path == row.path).values(verified_at=now)
        session.execute(change, execution_options={"synchronize_session": False})


def stored_rows(
    session: Session, *, before: datetime | None = None, limit: int | None = None, but: Iterable[str] = ()
) -> Iterator[Row]:
    """Rows that have files, one of each cache and each artifact, the least recently read first; with `before` those
    that were last read earlier, and at most `limit` of each, `but` none of these paths.
    """
    left_out = literal([*but], ARRAY(Text))  # one parameter, however many

    def due(table: type[Dataset] | type[ArtifactRow]) -> ColumnElement[bool]:
        late = true() if before is None else or_(table.verified_at.is_(None), table.verified_at < before)
        return and_(late, table.path != all_(left_out))

    versions = select(Dataset).where(Dataset.deleted_at.is_(None), due(Dataset)).limit(limit)
    seen: set[str] = set()
    for version in session.scalars(versions.order_by(Dataset.verified_at.asc().nulls_first(), Dataset.id)):
        if version.path not in seen:
            seen.add(version.path)
            yield version
    artifacts = select(ArtifactRow).where(due(ArtifactRow)).limit(limit)
    yield from session.scalars(artifacts.order_by(ArtifactRow.verified_at.asc().nulls_first()))


def describe_damage(row: Row, name: str) -> str:
    """A sentence about the file `name` of a row, and what to do."""
    if isinstance(row, Dataset):
        uploaded = row.spec.get("path") is None and row.spec.get("planted") is None
        again = (
            f"register the same files again (atft datasets add {row.name} FILE)"
            if uploaded
            else f"build it again (atft rerun {row.job_id})"
        )
        return f"{name} of dataset {row.name}@{row.version} is missing or altered: {again}"
    return f"{row.name} of job {row.job_id} is missing or altered: run the job again"
