"""What this process remembers of each caller: requests of this minute, open streams, when its use was last noted."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from api.http.errors import Refused

WINDOW_SECONDS: Final = 60


class Ledger:
    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._window = 0
        self._requests: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self._noted: dict[UUID, float] = {}

    def request(self, who: str, limit: int) -> dict[str, str]:
        """Count one request and return the rate headers of its answer. Raises Refused (429)."""
        now = self._now()
        if int(now // WINDOW_SECONDS) != self._window:
            self._window = int(now // WINDOW_SECONDS)
            self._requests.clear()
        self._requests[who] += 1
        left, seconds = limit - self._requests[who], int(WINDOW_SECONDS - now % WINDOW_SECONDS) + 1
        headers = {
            "RateLimit-Policy": f'"requests";q={limit};w={WINDOW_SECONDS}',
            "RateLimit": f'"requests";r={max(left, 0)};t={seconds}',
        }
        if left < 0:
            detail = f"this key may make {limit} requests a minute"
            raise Refused(429, "too_many_requests", detail, headers=headers | {"Retry-After": str(seconds)})
        return headers

    def check_streams(self, who: str, limit: int) -> None:
        """Raises Refused (429), before an answer starts that would be a broken 200."""
        if self._streams[who] >= limit:
            detail = f"this key may have {limit} streams open: close some"
            raise Refused(429, "too_many_streams", detail, headers={"Retry-After": "5"})

    @contextmanager
    def stream(self, who: str) -> Iterator[None]:
        """Count one open stream."""
        self._streams[who] += 1
        try:
            yield
        finally:
            self._streams[who] -= 1
            if not self._streams[who]:
                del self._streams[who]

    def should_note(self, key_id: UUID) -> bool:
        """True once a minute and key: the record is to be told that the key was used."""
        now = self._now()
        if now - self._noted.get(key_id, -WINDOW_SECONDS) < WINDOW_SECONDS:
            return False
        self._noted[key_id] = now
        return True
