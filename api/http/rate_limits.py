"""Limits of each principal in this process: requests a minute and open streams."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from api.http.errors import Refused

WINDOW_SECONDS: Final = 60


class RateLimits:
    """Counts requests in fixed windows of one minute, and open streams; in memory, so each API process has its own."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._window = 0
        self._requests: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self._last_recorded: dict[UUID, float] = {}

    def count_request(self, principal: str, limit: int) -> dict[str, str]:
        """Count one request and return its RateLimit response headers. Raises Refused (429)."""
        now = self._now()
        if int(now // WINDOW_SECONDS) != self._window:
            self._window = int(now // WINDOW_SECONDS)
            self._requests.clear()
        self._requests[principal] += 1
        left, seconds = limit - self._requests[principal], int(WINDOW_SECONDS - now % WINDOW_SECONDS) + 1
        headers = {
            "RateLimit-Policy": f'"requests";q={limit};w={WINDOW_SECONDS}',
            "RateLimit": f'"requests";r={max(left, 0)};t={seconds}',
        }
        if left < 0:
            detail = f"this key may make {limit} requests a minute"
            raise Refused(429, "too_many_requests", detail, headers=headers | {"Retry-After": str(seconds)})
        return headers

    def check_stream_limit(self, principal: str, limit: int) -> None:
        """Raises Refused (429), before the response starts with status 200."""
        if self._streams[principal] >= limit:
            detail = f"this key may have {limit} streams open: close some"
            raise Refused(429, "too_many_streams", detail, headers={"Retry-After": "5"})

    @contextmanager
    def open_stream(self, principal: str) -> Iterator[None]:
        """Count one open stream."""
        self._streams[principal] += 1
        try:
            yield
        finally:
            self._streams[principal] -= 1
            if not self._streams[principal]:
                del self._streams[principal]

    def should_record_use(self, key_id: UUID) -> bool:
        """True once a minute for each key: `last_used_at` is to be updated."""
        now = self._now()
        if now - self._last_recorded.get(key_id, -WINDOW_SECONDS) < WINDOW_SECONDS:
            return False
        self._last_recorded[key_id] = now
        return True
