"""What a child has said and Postgres has not taken yet: in order, first in memory, then in a file, bounded in both.

Nothing is dropped except progress that newer progress replaces. A full disk is no loss either: what cannot be written
stays in memory, and `full` tells the reader to read no more, so that the child waits at its pipe.
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
    """A queue of one writer and one reader: `head` is the oldest part, then comes the file, then `tail`."""

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
        """Too much waits for Postgres: read no more for now."""
        return self._blocked or self._end >= self._disk_bytes

    @property
    def empty(self) -> bool:
        return not self._tail and not self._head and self._read_at == self._end

    def oldest(self, max_events: int) -> list[AnyEvent]:
        """The first events, at least one if any waits; they stay until they are forgotten."""
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
        """Drop what is recorded: the oldest events, as `oldest` gave them."""
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
        """All of the tail but its last `keep` events, to where there is room."""
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
        except OSError:  # a full disk: half a line may be there, beyond the end, and is written over
            return False
        return False

    def _load_head(self) -> None:
        """The next part of the file becomes the head; a file that is read to its end is emptied."""
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
            with contextlib.suppress(OSError):  # only to give the room back
                self._file.truncate(0)
