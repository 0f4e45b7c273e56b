"""What builds leave on the disk when they, or their workers, die: scratch, orphaned caches, uploads nobody needs."""

import logging
import shutil
import time
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.record import caches
from jobs.settings import Settings
from jobs.states import TERMINAL, JobKind

YOUNG_SECONDS: Final = 3600.0  # what is younger may belong to a request or a worker that has not written its row yet
logger = logging.getLogger(__name__)


def remove_scratch(settings: Settings, job: Job, *, before: int | None = None) -> None:
    """Half-built caches of a build's attempts, of those `before` a running one; log and spec stay."""
    if job.kind is not JobKind.DATASET:
        return
    for folder in _entries(settings.jobs_root / str(job.id)):
        if before is not None and not (folder.name.isdecimal() and int(folder.name) < before):
            continue
        for entry in _entries(folder):
            if entry.name == "cache" or entry.name.startswith("."):
                _remove(entry)


def remove_uploads(settings: Settings, session: Session, job: Job) -> None:
    """The uploads of a build that has succeeded, unless another one reads them too."""
    for name in caches.uploads_of(job) - caches.needed_uploads(caches.recent_builds(session)):
        _remove(settings.uploads_root / name)


def tidy(settings: Settings, sessions: sessionmaker[Session]) -> None:
    """One round over everything, for what is missed when a process is killed. Safe to run anywhere, at any time."""
    with transaction(sessions) as session:
        builds = caches.recent_builds(session)
    for job in builds:
        remove_scratch(settings, job, before=None if job.state in TERMINAL else job.attempt)
    needed = caches.needed_uploads(builds)
    for folder in _entries(settings.uploads_root):
        if folder.name not in needed and all(map(_is_old, [folder, *_entries(folder)])):  # none has been written to
            _remove(folder)
    for folder in _entries(settings.caches_root):
        if folder.name.startswith(caches.TRASH):
            _remove(folder)
        elif _is_old(folder):
            with transaction(sessions) as session:
                discarded = caches.discard_cache(session, folder)
            if discarded is not None:
                _remove(discarded)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > YOUNG_SECONDS
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    logger.info("removing %s", path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
