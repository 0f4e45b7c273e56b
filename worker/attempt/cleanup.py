"""Removal of an attempt's temporary files: half-built caches, and uploads that a build no longer needs."""

import logging
import shutil
from pathlib import Path

from sqlalchemy.orm import Session

from atft.spec.kinds import KINDS
from jobs.db.tables import Job
from jobs.record import caches
from jobs.settings import Settings

logger = logging.getLogger(__name__)


def remove_scratch(settings: Settings, job: Job, *, before: int | None = None) -> None:
    """Remove the half-built caches of a build's attempts (only of those `before` a number, if given)."""
    if not KINDS[job.kind].builds:
        return
    for folder in entries(settings.jobs_root / str(job.id)):
        if before is not None and not (folder.name.isdecimal() and int(folder.name) < before):
            continue
        for entry in entries(folder):
            if entry.name == "cache" or entry.name.startswith("."):
                remove(entry)


def remove_uploads(settings: Settings, session: Session, job: Job) -> None:
    """Remove the uploads of a succeeded build, unless another build needs them."""
    for name in caches.uploads_of(job) - caches.needed_uploads(caches.recent_builds(session)):
        remove(settings.uploads_root / name)


def entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove(path: Path) -> None:
    logger.info("removing %s", path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
