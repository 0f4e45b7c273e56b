"""Cache folders and uploads on disk, kept consistent with their rows: one lock per fingerprint, so that no cache is
removed while a job registers it.
"""

import shutil
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import uuid4

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from jobs.db.tables import Dataset, Job
from jobs.record.catalog import advisory_lock
from jobs.states import ACTIVE, BUILDING, JobState

TRASH_PREFIX: Final = ".trash-"  # the name of a folder that is about to be removed begins so
_DERIVED: Final = ("graphs", "baselines")
UPLOAD_RETENTION: Final = timedelta(days=1)  # for so long a failed or cancelled build can be retried


def lock_cache(session: Session, folder: Path) -> bool:
    """Whether the cache exists; it cannot be removed until the transaction ends."""
    advisory_lock(session, "cache", folder.name)
    return folder.is_dir()


def move_to_trash(session: Session, folder: Path) -> Path | None:
    """Rename a cache folder that no dataset version and no unfinished job needs; null when one does, or it is missing.

    The caller removes the returned folder after the commit; one that is left behind begins with `TRASH_PREFIX`.
    """
    fingerprint = folder.name
    advisory_lock(session, "cache", fingerprint)
    version = select(Dataset.id).where(Dataset.fingerprint == fingerprint, Dataset.deleted_at.is_(None)).limit(1)
    job = select(Job.id).where(Job.dataset_fingerprint == fingerprint, Job.state.in_(ACTIVE)).limit(1)
    if session.scalar(version) is not None or session.scalar(job) is not None or not folder.is_dir():
        return None
    return folder.rename(folder.with_name(f"{TRASH_PREFIX}{fingerprint}-{uuid4().hex[:8]}"))


def move_damaged_to_trash(session: Session, folder: Path) -> Path:
    """Rename a cache folder whatever needs it: it is not what it was. The next clean-up removes it."""
    advisory_lock(session, "cache", folder.name)
    return folder.rename(folder.with_name(f"{TRASH_PREFIX}{folder.name}-{uuid4().hex[:8]}"))


def drop_derived(folder: Path) -> None:
    """Remove what trainings have computed from a cache and keep in it: it was damaged, perhaps when they read it."""
    for name in _DERIVED:
        shutil.rmtree(folder / name, ignore_errors=True)


def recent_builds(session: Session) -> list[Job]:
    """Dataset builds that are unfinished or finished less than a day ago."""
    recent = Job.finished_at > func.now() - UPLOAD_RETENTION
    query = select(Job).where(Job.kind.in_(BUILDING), or_(Job.state.in_(ACTIVE), recent))
    return list(session.scalars(query))


def needed_uploads(builds: Iterable[Job]) -> set[str]:
    """Names of the upload folders that one of `recent_builds` reads, or reads when it is retried. A build that
    succeeded needs its upload no more, since the cache holds all of it.
    """
    return {upload for job in builds if job.state is not JobState.SUCCEEDED for upload in uploads_of(job)}


def uploads_of(job: Job) -> set[str]:
    """Names of the upload folders that a build reads."""
    paths = (job.params or {}).get("files", {})
    return {path.removeprefix("upload:").partition("/")[0] for path in paths.values() if path.startswith("upload:")}
