"""Removal of orphaned files after crashes: scratch files of builds, caches without a dataset, unneeded uploads."""

import logging
import time
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.record import caches
from jobs.settings import Settings
from jobs.states import TERMINAL
from worker.attempt.cleanup import entries, remove, remove_scratch

MIN_AGE_SECONDS: Final = 3600.0  # younger files may belong to a request or a worker that has not written its row yet
logger = logging.getLogger(__name__)


def remove_orphans(settings: Settings, sessions: sessionmaker[Session]) -> None:
    """Remove everything that no row needs any more. Safe to run anywhere, at any time, concurrently."""
    with transaction(sessions) as session:
        builds = caches.recent_builds(session)
    for job in builds:
        remove_scratch(settings, job, before=None if job.state in TERMINAL else job.attempt)
    needed = caches.needed_uploads(builds)
    for folder in entries(settings.uploads_root):
        if folder.name not in needed and all(
            map(_is_old, [folder, *entries(folder)])
        ):  # an upload may still be arriving
            remove(folder)
    for folder in entries(settings.caches_root):
        if folder.name.startswith(caches.TRASH_PREFIX):
            remove(folder)
        elif _is_old(folder):
            with transaction(sessions) as session:
                discarded = caches.move_to_trash(session, folder)
            if discarded is not None:
                remove(discarded)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > MIN_AGE_SECONDS
    except FileNotFoundError:
        return False
