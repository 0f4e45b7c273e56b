"""Keeps the disk from filling up: applies the rules of retention now and then, warns running jobs when it is late."""

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
from worker.persistence import AWAY

EVERY_SECONDS: Final = 3600.0
LATE_SECONDS: Final = 60.0  # how often while the disk is full
BATCH: Final = 100  # jobs a round: the sweep, which waits, must not wait long
logger = logging.getLogger(__name__)


@dataclass
class Janitor:
    """One for a process; `publish` wakes whoever follows a job."""

    settings: Settings
    sessions: sessionmaker[Session]
    publish: Callable[[UUID], None]
    now: Callable[[], float] = time.monotonic
    _begun: float | None = field(default=None, init=False)
    _left: list[UUID] = field(default_factory=list, init=False)
    _warned: set[tuple[UUID, int]] = field(default_factory=set, init=False)

    def round(self) -> None:
        """What is due now. Raises nothing when Postgres is away, or a file cannot be removed: the next round tries."""
        try:
            free = free_bytes(self.settings.run_root)
            low = free < self.settings.min_free_bytes
            if low:
                self._warn(free)
            else:
                self._warned.clear()
            self._tidy(LATE_SECONDS if low else EVERY_SECONDS)
        except AWAY as error:
            logger.warning("nothing was tidied, Postgres is away: %s", error)
        except OSError as error:
            logger.warning("tidying stopped half-way: %s", error)

    def _tidy(self, every_seconds: float) -> None:
        """A few jobs of a pass over all; the next pass begins when it is time."""
        if not self._left:
            if self._begun is not None and self.now() - self._begun < every_seconds:
                return
            self._begun = self.now()
            self._left = retention.job_folders(self.settings)
        now, self._left = self._left[:BATCH], self._left[BATCH:]
        removed = retention.remove(self.sessions, self.settings, now)
        if removed:
            size = sum(removal.size_bytes for removal in removed)
            logger.info("removed %.3f GB of %d jobs that are over", size / 1e9, len(removed))

    def _warn(self, free: int) -> None:
        """Once an attempt: its next checkpoint may not fit."""
        with transaction(self.sessions) as session:
            running = select(Job.id, Job.attempt).where(Job.state == JobState.RUNNING, Job.kind.not_in(COORDINATING))
            found = [(job_id, attempt) for job_id, attempt in session.execute(running)]
        least = self.settings.min_free_bytes
        words = f"the disk has {free / 1e9:.2f} GB left, less than {least / 1e9:g}: what this job saves may not fit"
        for job_id, attempt in found:
            if (job_id, attempt) in self._warned:
                continue
            self._warned.add((job_id, attempt))
            try:
                with transaction(self.sessions) as session:
                    history.append(session, job_id, attempt, [Log(child_seq=0, level="warning", message=words)])
            except StaleAttempt:
                continue
            self.publish(job_id)
