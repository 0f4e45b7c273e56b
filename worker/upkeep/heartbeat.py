"""The worker's heartbeat thread; it survives outages of Postgres."""

import logging
import os
import threading
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.record import queries, store_identity
from jobs.states import JobState
from worker.persistence import POSTGRES_UNAVAILABLE
from worker.slot import DeviceSlot

HEARTBEAT_SECONDS: Final = 5.0
logger = logging.getLogger(__name__)


class Heartbeat(threading.Thread):
    """Writes every few seconds that this worker is alive, which running job it has claimed, and why it takes none."""

    def __init__(
        self, sessions: sessionmaker[Session], slot: DeviceSlot, run_root: Path, seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._sessions = sessions
        self._slot = slot
        self._run_root = run_root
        self._seconds = seconds
        self._stopped = threading.Event()

    def run(self) -> None:
        while True:
            try:
                self._beat()
            except POSTGRES_UNAVAILABLE as error:
                logger.warning("no heartbeat, Postgres is unavailable: %s", error)
            if self._stopped.wait(self._seconds):
                return

    def _beat(self) -> None:
        claimed = select(Job.id).where(Job.worker == self._slot.name, Job.state == JobState.RUNNING).limit(1)
        with transaction(self._sessions) as session:
            queries.heartbeat_worker(
                session,
                name=self._slot.name,
                host=self._slot.host,
                pid=os.getpid(),
                queue=self._slot.queue,
                device=self._slot.device,
                busy_with=session.scalars(claimed).one_or_none(),
                problem=store_identity.bind(session, self._run_root),
            )

    def stop(self) -> None:
        self._stopped.set()
