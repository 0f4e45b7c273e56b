"""A queue of a child's events that are not in Postgres yet: first in memory, then in a file, both of bounded size.

Nothing is dropped except progress that newer progress replaces, not even when the disk is full: events that cannot be
written stay in memory, and `full` tells the reader to stop reading, so that the child blocks on its pipe.
"""

import contextlib
import threading
from collections import deque
from pathlib import Path
from typing import IO, Final

from atft.events import AnyEvent, Progress, parse

MEMORY_BYTES: Final = 8_000_000
DISK_BYTES: Final = 256_000_000


class EventBuffer:
    """A queue with one writer and one reader: `head` in memory is the oldest part, then the file, then `tail`."""

    def __init__(self, path: Path, *, memory_bytes: int = MEMORY_BYTES, disk_bytes: int = DISK_BYTES) -> None:
        self._path = path
        self._memory_bytes = memory_bytes
        self._disk_bytes = disk_bytes
        self._lock = threading.Lock()
        self._head: deque[tuple[AnyEvent, int]] = deque()
        self._head_bytes = 0
        self._tail: deque[AnyEvent] = deque()  # the newest event, which newer progress may replace; more when `_stuck`
        self._file: IO[bytes] | None = None
        self._read_at = self._end = 0
        self._blocked = False

    def add(self, event: AnyEvent) -> None:
        with self._lock:
            if isinstance(event, Progress) and self._tail and isinstance(self._tail[-1], Progress):
                self._tail[-1] = event
            else:
                self._tail.append(event)
            self._spill_tail(keep=1)

    @property
    def full(self) -> bool:
        """True when the bound is reached: the reader must pause."""
        return self._blocked or self._end >= self._disk_bytes

    @property
    def empty(self) -> bool:
        return not self._tail and not self._head and self._read_at == self._end

    def oldest(self, max_events: int) -> list[AnyEvent]:
        """The oldest events, at least one if there are any; they stay until `discard`."""
        with self._lock:
            if not self._head:
                self._load_head()
            if self._read_at == self._end:
                self._spill_tail(keep=1)
            found = [event for event, _ in list(self._head)[:max_events]]
            if len(found) < max_events and len(found) == len(self._head) and self._read_at == self._end:
                found += list(self._tail)[: max_events - len(found)]
            return found

    def discard(self, events: list[AnyEvent]) -> None:
        """Remove events that have been recorded, as returned by `oldest`."""
        with self._lock:
            for event in events:
                if self._head and self._head[0][0] is event:
                    self._head_bytes -= self._head.popleft()[1]
                elif self._tail and self._tail[0] is event:  # not so when newer progress took its place
                    self._tail.popleft()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
                self._path.unlink(missing_ok=True)

    def _spill_tail(self, keep: int) -> None:
        """Move all but the last `keep` events of the tail to the head, or to the file when the head is full."""
        while len(self._tail) > keep:
            line = self._tail[0].model_dump_json().encode() + b"\n"
            if self._read_at == self._end and self._head_bytes + len(line) <= self._memory_bytes:
                self._head.append((self._tail[0], len(line)))
                self._head_bytes += len(line)
            elif not self._write(line):
                self._blocked = True
                return
            self._tail.popleft()
        self._blocked = False

    def _write(self, line: bytes) -> bool:
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w+b", buffering=0)
            self._file.seek(self._end)
            if self._file.write(line) == len(line):
                self._end += len(line)
                return True
        except OSError:  # a full disk: a partial line may lie beyond the end and is overwritten later
            return False
        return False

    def _load_head(self) -> None:
        """Load the next part of the file into the head; truncate the file once it is read to its end."""
        if self._file is None or self._read_at == self._end:
            return
        self._file.seek(self._read_at)
        while self._read_at < self._end and (not self._head or self._head_bytes < self._memory_bytes):
            line = self._file.readline(self._end - self._read_at)
            self._head.append((parse(line), len(line)))
            self._head_bytes += len(line)
            self._read_at += len(line)
        if self._read_at == self._end:
            self._read_at = self._end = 0
            with contextlib.suppress(OSError):  # only frees disk space
                self._file.truncate(0)
