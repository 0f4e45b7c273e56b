"""Records one attempt's events and renews its lease, in its own thread, so that Postgres never blocks the watchdog.

Events wait in a bounded buffer, in order, while Postgres is unavailable.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from atft.events import AnyEvent, Checkpointed, Failed, Finished, Metrics, Stopped
from atft.spec.metric import STEP
from jobs import logs
from jobs.db.session import transaction
from jobs.errors import JobNotFound, StaleAttempt
from jobs.record import history, lifecycle, queries
from jobs.states import JobState, Wanted
from worker.attempt.event_buffer import EventBuffer
from worker.persistence import MAX_BACKOFF_SECONDS, POSTGRES_UNAVAILABLE, TICK_SECONDS

# A checkpoint is soon replaced on disk, and the supervisor waits for a final event.
URGENT: Final = (Checkpointed, Finished, Stopped, Failed)
MAX_BATCH: Final = 500
logger = logging.getLogger(__name__)


class Recorder(threading.Thread):
    """The thread that writes an attempt's events. `wanted` and `superseded` are as last read from the row; `error`
    is an exception that ended the thread. `on_epoch_recorded` is called after the metrics of an epoch are
    written. `spill_path` is the file for events that exceed the memory bound.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        job_id: UUID,
        attempt: int,
        *,
        lease_seconds: float,
        wanted_poll_seconds: float,
        publish: Callable[[UUID], None],
        spill_path: Path,
        on_epoch_recorded: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name="recorder", daemon=True)
        self._sessions = sessions
        self._job_id = job_id
        self._attempt = attempt
        self._lease_seconds = lease_seconds
        self._wanted_poll_seconds = wanted_poll_seconds
        self._publish = publish
        self._on_epoch_recorded = on_epoch_recorded
        self._buffer = EventBuffer(spill_path)
        self._wake = threading.Event()
        self._stopped = False
        self._renew_at = time.monotonic() + lease_seconds / 3
        self._read_wanted_at = 0.0
        self.wanted = Wanted.RUN
        self.superseded = False
        self.error: Exception | None = None

    def add(self, event: AnyEvent) -> None:
        """Queue an event for recording."""
        self._buffer.add(event)
        if isinstance(event, URGENT):
            self._wake.set()

    @property
    def full(self) -> bool:
        """True when the event buffer is full: the reader must pause."""
        return self._buffer.full

    @property
    def flushed(self) -> bool:
        """True when no event waits, or none may be written any more."""
        return self._buffer.empty or self.superseded or self.error is not None

    def run(self) -> None:
        with logs.log_context(job_id=self._job_id, attempt=self._attempt):  # threads do not inherit the log context
            self._run_loop()

    def _run_loop(self) -> None:
        failures = 0
        while True:
            self._wake.wait(min(TICK_SECONDS * 2**failures, MAX_BACKOFF_SECONDS))
            self._wake.clear()
            if self._stopped:
                return
            try:
                self._tick()
            except POSTGRES_UNAVAILABLE as error:
                if failures == 0:
                    logger.warning("job %s: Postgres is unavailable, its events are buffered: %s", self._job_id, error)
                failures = min(failures + 1, 8)
            except (StaleAttempt, JobNotFound):
                self.superseded = True
                return
            except Exception as error:  # noqa: BLE001 - handed to the supervisor's thread, which raises it
                self.error = error
                return
            else:
                failures = 0

    def _tick(self) -> None:
        """Run one short transaction for whatever is due: events, lease renewal, reading `wanted`."""
        now = time.monotonic()
        renew, read_wanted = now >= self._renew_at, now >= self._read_wanted_at
        batch = self._buffer.oldest(MAX_BATCH)
        if not (batch or renew or read_wanted):
            return
        with transaction(self._sessions) as session:
            if batch:
                history.append(session, self._job_id, self._attempt, batch)
            if renew:
                wanted = lifecycle.renew(session, self._job_id, self._attempt, self._lease_seconds)
                if wanted is None:
                    raise StaleAttempt
                self.wanted = wanted
            elif read_wanted:
                self._read_wanted(session)
        if renew:
            self._renew_at = now + self._lease_seconds / 3
        self._read_wanted_at = now + self._wanted_poll_seconds
        if batch:
            self._buffer.discard(batch)
            self._publish(self._job_id)
            if any(isinstance(event, Metrics) and _is_epoch_metrics(event) for event in batch):
                self._on_epoch_recorded()

    def _read_wanted(self, session: Session) -> None:
        job = queries.get(session, self._job_id)
        if job.attempt != self._attempt or job.state is not JobState.RUNNING:
            raise StaleAttempt
        self.wanted = job.wanted

    def flush(self, give_up: Callable[[], bool]) -> bool:
        """Wait until every event is written; False when `give_up` returns True first."""
        while not self.flushed:
            if give_up():
                return False
            time.sleep(0.02)
        return True

    def stop(self) -> None:
        """Stop the thread; buffered events stay unwritten."""
        self._stopped = True
        self._wake.set()
        self.join()
        self._buffer.close()


def _is_epoch_metrics(event: Metrics) -> bool:
    return event.source is None and not all(name.startswith(f"{STEP}/") for name in event.values)
