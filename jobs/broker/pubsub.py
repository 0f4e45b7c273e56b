"""Redis publish/subscribe of "job N has changed": subscribers read the table, which they do every two seconds anyway,
so that a lost message delays an update and loses nothing. Published after the commit, never inside a transaction.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from jobs.settings import Settings

CHANNEL: Final = "atft:news"
_TIMEOUT_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


def redis_client(settings: Settings) -> redis.Redis:
    """A client for `publish` that gives up within about a second, without retries."""
    return redis.Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        health_check_interval=25,
        retry=Retry(NoBackoff(), 0),
    )


def async_redis_client(settings: Settings) -> redis.asyncio.Redis:
    """The same for `apublish` and health checks."""
    return redis.asyncio.Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        health_check_interval=25,
        retry=AsyncRetry(NoBackoff(), 0),
    )


def publish(client: redis.Redis, job_id: UUID) -> None:
    """Notify the subscribers of a job. When Redis is unavailable this is logged, and no error."""
    try:
        client.publish(CHANNEL, str(job_id))
    except RedisError as error:
        _log.warning("could not notify the subscribers of job %s: %s", job_id, error)


async def apublish(client: redis.asyncio.Redis, job_id: UUID) -> None:
    """The async version of `publish`."""
    try:
        await client.publish(CHANNEL, str(job_id))
    except RedisError as error:
        _log.warning("could not notify the subscribers of job %s: %s", job_id, error)


class PubSub:
    """One Redis subscription for a whole process, fanned out to its listeners: `async with PubSub(settings) as pubsub`.

    After a reconnection every listener is woken once, for messages that it may have missed.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.redis_url.get_secret_value()
        self._listeners: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def listen(self, *job_ids: UUID) -> Iterator[asyncio.Event]:
        """An asyncio event that is set whenever one of these jobs changes: clear it, read the table, wait for it."""
        event = asyncio.Event()
        for job_id in job_ids:
            self._listeners[job_id].add(event)
        try:
            yield event
        finally:
            for job_id in job_ids:
                self._listeners[job_id].discard(event)
                if not self._listeners[job_id]:
                    del self._listeners[job_id]

    def wake_all(self) -> None:
        """Set every listener's event: after a reconnection, and at shutdown."""
        for events in self._listeners.values():
            for event in events:
                event.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow(), name="pubsub")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self) -> None:
        while True:
            try:
                await self._subscribe()
            except (RedisError, OSError) as error:
                _log.warning("Redis is unavailable, subscribing again: %s", error)
                await asyncio.sleep(0.5)

    async def _subscribe(self) -> None:
        # No socket timeout: a subscriber waits indefinitely; the health check notices a dead peer.
        client = redis.asyncio.Redis.from_url(
            self._url,
            socket_timeout=None,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            health_check_interval=10,
            retry=AsyncRetry(NoBackoff(), 0),
        )
        async with client, client.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(CHANNEL)
            self.wake_all()
            while True:
                message = await channel.get_message(timeout=2.0)
                if message is not None and message["type"] == "message":
                    for event in self._listeners.get(UUID(message["data"].decode()), ()):
                        event.set()
