"""The state shared by all requests of one application: settings, database, broker, pub/sub, limits, open streams."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from uuid import UUID

from fastapi import Request
from redis.asyncio import Redis

from api.http.auth import Principal
from api.http.database import Database
from api.http.errors import Refused, Unavailable
from api.http.path_guard import existing_file
from api.http.prometheus import PrometheusMetrics
from api.http.rate_limits import RateLimits
from api.http.sse import read_updates
from api.http.stream_batcher import StreamBatcher
from atft.checksums import Checksums
from jobs.broker.pubsub import PubSub, apublish
from jobs.broker.queue import HintSender
from jobs.db.tables import ArtifactRow, Dataset, Job
from jobs.record import stored
from jobs.record.quotas import check_upload_quota
from jobs.settings import Settings, free_bytes

log = logging.getLogger("api")
HINT_SECONDS: Final = 2.0
_MAX_PENDING_HINTS: Final = 64
MAX_STREAMS: Final = 2000
ACCESS_CHECK_SECONDS: Final = 5.0
_DISK_SECONDS: Final = 1.0


class AccessLost(Exception):
    """The principal of an open stream has lost its access. The stream just ends; a new request says why."""


class StreamAccess:
    """Checks every few seconds that the principal of an open stream is still valid: revoking a key ends its streams."""

    def __init__(self, database: Database, principal: Principal) -> None:
        self._database, self._principal = database, principal
        self._checked_at = time.monotonic()

    async def check(self) -> None:
        """Raises AccessLost, Unavailable."""
        if time.monotonic() - self._checked_at >= ACCESS_CHECK_SECONDS:
            if not await self._database.read(self._principal.is_valid):
                raise AccessLost
            self._checked_at = time.monotonic()


class Service:
    """One per application, made at startup: routes get it as `ServiceDep`."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        pubsub: PubSub,
        redis: Redis,
        metrics: PrometheusMetrics,
        rate_limits: RateLimits,
    ) -> None:
        self.rate_limits = rate_limits
        self.settings = settings
        self.database = database
        self.pubsub = pubsub
        self.redis = redis
        self.metrics = metrics
        self.closing = asyncio.Event()
        self._checksums = Checksums()
        self._hint_sender = HintSender(settings)
        self._hint_executor = ThreadPoolExecutor(2, thread_name_prefix="hints")
        self._pending_hints = 0
        self._open_streams = 0
        self._free_bytes: tuple[float, int] | None = None
        self.stream_batcher = StreamBatcher(lambda positions: database.read(read_updates, positions))

    async def send_hint(self, job: Job) -> None:
        """Send the hint of a committed job to the broker, waiting at most two seconds; the sweep resends lost hints."""
        if self._pending_hints >= _MAX_PENDING_HINTS:
            self.metrics.hints_lost.inc()
            return
        self._pending_hints += 1
        sending = asyncio.get_running_loop().run_in_executor(
            self._hint_executor, self._hint_sender.send, job.queue, job.id, job.priority
        )
        sending.add_done_callback(self._on_hint_sent)
        await asyncio.wait([sending], timeout=HINT_SECONDS)

    def _on_hint_sent(self, sending: "asyncio.Future[bool]") -> None:
        self._pending_hints -= 1
        if sending.cancelled() or sending.exception() is not None or not sending.result():
            self.metrics.hints_lost.inc()
            log.warning("a hint could not be sent to the broker; the sweep will resend it")

    async def notify(self, job_id: UUID) -> None:
        """Publish that a job has changed: its worker and its streams read it now instead of within two seconds."""
        await apublish(self.redis, job_id)

    def start_closing(self) -> None:
        """End all streams, because the process is about to stop and would wait for them."""
        self.closing.set()
        self.pubsub.wake_all()

    @contextlib.contextmanager
    def open_stream(self, principal: Principal) -> Iterator[None]:
        """Count one open stream."""
        self._open_streams += 1
        self.metrics.streams.set(self._open_streams)
        try:
            with self.rate_limits.open_stream(principal.name):
                yield
        finally:
            self._open_streams -= 1
            self.metrics.streams.set(self._open_streams)

    def stream_access(self, principal: Principal) -> StreamAccess:
        return StreamAccess(self.database, principal)

    def check_stream_limit(self, principal: Principal) -> None:
        """Raises Refused (429, 503) when too many are open, before the response starts with status 200."""
        self.rate_limits.check_stream_limit(principal.name, principal.limits.streams)
        if self._open_streams >= MAX_STREAMS:
            raise Refused(503, "too_many_streams", f"{MAX_STREAMS} streams are open", headers={"Retry-After": "5"})

    async def check_disk(self) -> None:
        """Raises Refused (507) when too little disk space is free to accept a new job."""
        min_free, now = self.settings.min_free_bytes, time.monotonic()
        if self._free_bytes is None or now - self._free_bytes[0] > _DISK_SECONDS:
            self._free_bytes = now, await asyncio.to_thread(free_bytes, self.settings.run_root)
        if self._free_bytes[1] < min_free:
            detail = (
                f"less than {min_free / 1e9:g} GB are free on the server's disk: no job is accepted until there are"
            )
            raise Refused(507, "disk_full", detail, headers={"Retry-After": "60"})

    async def check_upload_quota(self, principal: Principal, request: Request) -> None:
        """Raises QuotaExceeded when this upload, by its Content-Length, would exceed the daily limit of its key."""
        length = request.headers.get("content-length", "")
        expected_bytes = int(length) if length.isascii() and length.isdigit() else 0
        await self.database.read(check_upload_quota, principal.name, expected_bytes, principal.limits.upload_bytes)

    def job_folder(self, job_id: UUID) -> Path:
        return self.settings.jobs_root / str(job_id)

    async def artifact_file(self, row: ArtifactRow) -> Path:
        """The file of an artifact, with the bytes that were recorded. Raises Refused (404 it is gone, 410 damaged)."""
        path = existing_file(self.settings.run_root, row.path)
        if path is None:
            raise Refused(404, "artifact_gone", f"artifact {row.name!r} was recorded, but its file is no longer there")
        if not await asyncio.to_thread(self._is_whole, path, row, row.sha256):
            detail = f"artifact {row.name!r} is damaged on the server's disk: run the job again, or restore the file"
            raise Refused(410, "artifact_damaged", detail)
        if row.verified_at is None:  # the next request need not read it whole again
            with contextlib.suppress(Unavailable):
                await self.database.write(stored.record_read, [row], whole=True)
        return path

    async def cache_file(self, version: Dataset, name: str) -> Path | None:
        """A file of a dataset's cache, with the bytes that were recorded; None when it is missing or altered."""
        relative = f"{version.path}/{name}"
        path, sha256 = existing_file(self.settings.run_root, relative), stored.promised(version).get(relative)
        return path if path is not None and await asyncio.to_thread(self._is_whole, path, version, sha256) else None

    def _is_whole(self, path: Path, row: stored.Row, sha256: str | None) -> bool:
        try:
            return self._checksums.sha256(path, reread=row.verified_at is None) == sha256
        except OSError:  # it was removed just now, or the disk cannot read it
            return False

    def close(self) -> None:
        self._hint_executor.shutdown(wait=False, cancel_futures=True)
        self._hint_sender.close()
