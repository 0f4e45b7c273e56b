"""The janitor: applies the retention rules periodically, and warns running jobs when disk space is low."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from atft.events import Log
from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.errors import StaleAttempt
from jobs.ops import retention
from jobs.record import history
from jobs.settings import Settings, free_bytes
from jobs.states import COORDINATING, JobState
from worker.persistence import POSTGRES_UNAVAILABLE

INTERVAL_SECONDS: Final = 3600.0
LOW_DISK_INTERVAL_SECONDS: Final = 60.0  # how often while the disk is full
BATCH: Final = 100  # jobs per run, to keep it short: the sweep waits for it
logger = logging.getLogger(__name__)


@dataclass
class Janitor:
    """One per process; `publish` notifies followers of a job."""

    settings: Settings
    sessions: sessionmaker[Session]
    publish: Callable[[UUID], None]
    now: Callable[[], float] = time.monotonic
    _pass_started_at: float | None = field(default=None, init=False)
    _pending: list[UUID] = field(default_factory=list, init=False)
    _warned: set[tuple[UUID, int]] = field(default_factory=set, init=False)

    def run_once(self) -> None:
        """Do what is due now. An unavailable Postgres or a file that cannot be removed is left to the next run."""
        try:
            free = free_bytes(self.settings.run_root)
            low = free < self.settings.min_free_bytes
            if low:
                self._warn(free)
            else:
                self._warned.clear()
            self._remove_expired(LOW_DISK_INTERVAL_SECONDS if low else INTERVAL_SECONDS)
        except POSTGRES_UNAVAILABLE as error:
            logger.warning("retention skipped, Postgres is unavailable: %s", error)
        except OSError as error:
            logger.warning("retention stopped early: %s", error)

    def _remove_expired(self, interval_seconds: float) -> None:
        """Remove the expired files of one batch of jobs; begin a new pass when it is due."""
        if not self._pending:
            if self._pass_started_at is not None and self.now() - self._pass_started_at < interval_seconds:
                return
            self._pass_started_at = self.now()
            self._pending = retention.job_folders(self.settings)
        now, self._pending = self._pending[:BATCH], self._pending[BATCH:]
        removed = retention.remove(self.sessions, self.settings, now)
        if removed:
            size = sum(removal.size_bytes for removal in removed)
            logger.info("removed %.3f GB of %d finished jobs", size / 1e9, len(removed))

    def _warn(self, free: int) -> None:
        """Log a warning to each running job, once per attempt: its next checkpoint may not fit."""
        with transaction(self.sessions) as session:
            running = select(Job.id, Job.attempt).where(Job.state == JobState.RUNNING, Job.kind.not_in(COORDINATING))
            found = [(job_id, attempt) for job_id, attempt in session.execute(running)]
        min_free = self.settings.min_free_bytes
        message = (
            f"the disk has {free / 1e9:.2f} GB left, less than {min_free / 1e9:g}: what this job saves may not fit"
        )
        for job_id, attempt in found:
            if (job_id, attempt) in self._warned:
                continue
            self._warned.add((job_id, attempt))
            try:
                with transaction(self.sessions) as session:
                    history.append(session, job_id, attempt, [Log(child_seq=0, level="warning", message=message)])
            except StaleAttempt:
                continue
            self.publish(job_id)
