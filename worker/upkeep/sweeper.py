"""The sweeper: sends lost hints again, ends attempts whose lease expired, fails jobs queued for too long, cleans up.

A sweep may run anywhere, twice, or not at all: each step is a query and a guarded transition that may lose its race.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker

from jobs.broker.queue import CONTROL, CPU, GPU
from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.record import lifecycle, queries
from jobs.states import JobState
from worker.persistence import POSTGRES_UNAVAILABLE

BATCH: Final = 100
ORPHANS_INTERVAL_SECONDS: Final = 60.0
HINT_SECONDS: Final = 5.0  # a hint takes milliseconds: an older one is lost, or its queue is busy
logger = logging.getLogger(__name__)

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # also counts while the machine is suspended
_UPTIME = text("SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())")


def database_time(session: Session) -> float:
    """The database's clock in seconds since the epoch; leases expire by it."""
    return float(session.scalars(select(func.clock_timestamp())).one().timestamp())


@dataclass
class Sweeper:
    """One per process, because it must know for how long it has been able to reach Postgres.

    `queue_is_empty` tells whether a queue holds no message: one that does needs no further hint.
    `remove_orphans` removes files that crashed builds left on the disk.
    """

    sessions: sessionmaker[Session]
    lease_seconds: float
    hint: Callable[[str, UUID, int], object]
    queue_is_empty: Callable[[str], bool]
    publish: Callable[[UUID], None]
    remove_orphans: Callable[[], None] = lambda: None
    sweep_seconds: float = 0.0
    now: Callable[[], float] = lambda: time.clock_gettime(_CLOCK)
    database_time: Callable[[Session], float] = database_time
    _reachable_since: float = field(default=0.0, init=False)
    _last_reached_at: float | None = field(default=None, init=False)
    _last_clocks: tuple[float, float] | None = field(default=None, init=False)
    _last_study: UUID | None = field(default=None, init=False)  # the last study of the round before
    _orphans_removed_at: float = field(default=-ORPHANS_INTERVAL_SECONDS, init=False)

    def sweep(self) -> None:
        """One bounded sweep. When Postgres is unavailable it only logs, and the wait for a full lease starts again."""
        try:
            self._sweep_once()
        except POSTGRES_UNAVAILABLE as error:
            self._last_reached_at = None
            logger.warning("no sweep, Postgres is unavailable: %s", error)

    def _sweep_once(self) -> None:
        began = self.now()
        with transaction(self.sessions) as session:
            self._compare_clocks(session)
            uptime = float(session.execute(_UPTIME).scalar_one())
            overdue = lifecycle.expire_queued(session, BATCH)
            lifecycle.delete_outdated(session)
        for job_id in overdue:
            self.publish(job_id)
        # Nobody could renew during an outage of Postgres: leases expire only one full lease after its return.
        if min(self._reachable_seconds(began), uptime) > self.lease_seconds:
            self._expire_leases()
        for queue in (CPU, GPU):
            self._send_hints(queue)
        self._advance_studies()
        if self.now() - self._orphans_removed_at >= ORPHANS_INTERVAL_SECONDS:
            self._orphans_removed_at = self.now()
            self._remove_orphans()
            self._draw_plots()

    def _remove_orphans(self) -> None:
        try:
            self.remove_orphans()
        except OSError as error:
            logger.warning("not all orphaned files could be removed: %s", error)

    def _reachable_seconds(self, queried_at: float) -> float:
        """Seconds since when Postgres has been reachable. Restarts after a late reply (Postgres was frozen) and a pause
        of our own (the machine was suspended).
        """
        pause = max(self.lease_seconds, self.sweep_seconds * 3)
        if (
            self._last_reached_at is None
            or queried_at - self._last_reached_at > pause
            or self.now() - queried_at > self.lease_seconds / 3
        ):
            self._reachable_since = self.now()
        self._last_reached_at = self.now()
        return self._last_reached_at - self._reachable_since

    def _compare_clocks(self, session: Session) -> None:
        """Restart the wait for a full lease after a step of the database's clock, which would expire leases early."""
        theirs, ours = self.database_time(session), self.now()
        if self._last_clocks is not None:
            step = (theirs - self._last_clocks[0]) - (ours - self._last_clocks[1])
            if abs(step) > self.lease_seconds / 3:
                logger.warning("the database's clock stepped by %.1f s: every worker gets a whole lease", step)
                self._reachable_since = ours
        self._last_clocks = theirs, ours

    def _expire_leases(self) -> None:
        queried_at = self.now()
        with transaction(self.sessions) as session:
            lost = [(job.id, job.attempt) for job in queries.expired(session, BATCH)]
            self._compare_clocks(session)
        if self._reachable_seconds(queried_at) <= self.lease_seconds:
            return
        for job_id, attempt in lost:
            with transaction(self.sessions) as session:
                state = lifecycle.expire(session, job_id, attempt)
                job: Job = queries.get(session, job_id)
            if state is None:
                continue
            logger.warning("job %s, attempt %d: its worker %s is lost; %s", job_id, attempt, job.worker, state)
            self.publish(job_id)
            if state is JobState.QUEUED:
                self.hint(job.queue, job_id, job.priority)

    def _send_hints(self, queue: str) -> None:
        with transaction(self.sessions) as session:
            waiting = queries.due_jobs(session, queue, HINT_SECONDS, BATCH)
        if waiting and self.queue_is_empty(queue):
            for job in waiting:
                self.hint(queue, job.id, job.priority)

    def _advance_studies(self) -> None:
        """Send hints for active studies, batch by batch: a study has no lease."""
        if not self.queue_is_empty(CONTROL):
            return
        with transaction(self.sessions) as session:
            studies = queries.active_studies(session, BATCH, self._last_study) or queries.active_studies(session, BATCH)
        for study in studies:
            self.hint(CONTROL, study.id, study.priority)
        self._last_study = studies[-1].id if len(studies) == BATCH else None

    def _draw_plots(self) -> None:
        """Send hints for studies that have ended without plots: the process that was to draw them was killed."""
        with transaction(self.sessions) as session:
            ended = queries.studies_without_plots(session, BATCH)
        for study in ended:
            self.hint(CONTROL, study.id, study.priority)
