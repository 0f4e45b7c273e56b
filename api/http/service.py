"""What one application holds while it runs: settings, database, broker, wake-ups, open streams."""

import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

from fastapi import Request
from redis.asyncio import Redis

from api.http.auth import Principal
from api.http.database import Database
from api.http.errors import Refused
from api.http.prometheus import Telemetry
from api.http.rate_limits import Ledger
from api.http.sse import look
from api.http.stream_batcher import Lookout
from jobs.broker.pubsub import PubSub, apublish
from jobs.broker.queue import HintSender
from jobs.db.tables import Job
from jobs.record.quotas import check_upload_quota
from jobs.settings import Settings, free_bytes

log = logging.getLogger("api")
HINT_SECONDS: Final = 2.0
_MAX_PENDING_HINTS: Final = 64
MAX_STREAMS: Final = 2000
STANDING_SECONDS: Final = 5.0
_DISK_SECONDS: Final = 1.0


class Lost(Exception):
    """Who follows a stream may not do so any more. The stream just ends: whoever comes back is told why."""


class Standing:
    """Asks every few seconds whether who follows a stream still may: a key that is revoked ends its streams too."""

    def __init__(self, database: Database, who: Principal) -> None:
        self._database, self._who = database, who
        self._asked = time.monotonic()

    async def check(self) -> None:
        """Raises Lost, Unavailable."""
        if time.monotonic() - self._asked >= STANDING_SECONDS:
            if not await self._database.read(self._who.holds):
                raise Lost
            self._asked = time.monotonic()


class Service:
    def __init__(
        self,
        settings: Settings,
        database: Database,
        pubsub: PubSub,
        redis: Redis,
        telemetry: Telemetry,
        ledger: Ledger,
    ) -> None:
        self.ledger = ledger
        self.settings = settings
        self.database = database
        self.pubsub = pubsub
        self.redis = redis
        self.telemetry = telemetry
        self.closing = asyncio.Event()
        self._hints = HintSender(settings)
        self._senders = ThreadPoolExecutor(2, thread_name_prefix="hints")
        self._pending = 0
        self._streams = 0
        self._disk: tuple[float, int] | None = None
        self.lookout = Lookout(lambda places: database.read(look, places))

    async def announce(self, job: Job) -> None:
        """Tell the broker of a committed job. Bounded: a hint that is not sent is sent again by the sweep."""
        if self._pending >= _MAX_PENDING_HINTS:
            self.telemetry.hints_lost.inc()
            return
        self._pending += 1
        sending = asyncio.get_running_loop().run_in_executor(
            self._senders, self._hints.send, job.queue, job.id, job.priority
        )
        sending.add_done_callback(self._sent)
        await asyncio.wait([sending], timeout=HINT_SECONDS)

    def _sent(self, sending: "asyncio.Future[bool]") -> None:
        self._pending -= 1
        if sending.cancelled() or sending.exception() is not None or not sending.result():
            self.telemetry.hints_lost.inc()
            log.warning("the broker took no hint; the sweep will send it again")

    async def wake(self, job_id: UUID) -> None:
        """Say that a job has news: its worker and its viewers look at once instead of within two seconds."""
        await apublish(self.redis, job_id)

    def start_closing(self) -> None:
        """The process is about to stop: streams end now, so that the server need not wait for them."""
        self.closing.set()
        self.pubsub.wake_all()

    @contextmanager
    def stream(self, who: Principal) -> Iterator[None]:
        """Count one open stream."""
        self._streams += 1
        self.telemetry.streams.set(self._streams)
        try:
            with self.ledger.stream(who.name):
                yield
        finally:
            self._streams -= 1
            self.telemetry.streams.set(self._streams)

    def standing(self, who: Principal) -> Standing:
        return Standing(self.database, who)

    def check_streams(self, who: Principal) -> None:
        """Raises Refused (429, 503) when too many are open, before an answer starts that would be a broken 200."""
        self.ledger.check_streams(who.name, who.limits.streams)
        if self._streams >= MAX_STREAMS:
            raise Refused(503, "too_many_streams", f"{MAX_STREAMS} streams are open", headers={"Retry-After": "5"})

    async def check_disk(self) -> None:
        """Raises Refused (507) when the disk is so full that no new job is accepted."""
        least, now = self.settings.min_free_bytes, time.monotonic()
        if self._disk is None or now - self._disk[0] > _DISK_SECONDS:
            self._disk = now, await asyncio.to_thread(free_bytes, self.settings.run_root)
        if self._disk[1] < least:
            detail = f"less than {least / 1e9:g} GB are free on the server's disk: no job is accepted until there are"
            raise Refused(507, "disk_full", detail, headers={"Retry-After": "60"})

    async def check_upload(self, who: Principal, request: Request) -> None:
        """Raises QuotaExceeded when this upload, as long as it says that it is, would be too much for its key."""
        length = request.headers.get("content-length", "")
        coming_bytes = int(length) if length.isascii() and length.isdigit() else 0
        await self.database.read(check_upload_quota, who.name, coming_bytes, who.limits.upload_bytes)

    def job_folder(self, job_id: UUID) -> Path:
        return self.settings.jobs_root / str(job_id)

    def close(self) -> None:
        self._senders.shutdown(wait=False, cancel_futures=True)
        self._hints.close()
