"""The scrub: reads all stored files again, slowly, so that what a disk has altered is found before it is used."""

import hashlib
import logging
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from atft.checksums import CHUNK
from jobs.db.session import transaction
from jobs.db.tables import Dataset
from jobs.record import caches, stored
from jobs.settings import Settings
from worker.persistence import POSTGRES_UNAVAILABLE

STEP_BYTES: Final = 64 << 20  # a sweep waits for it a tenth of a second; with one in 10 s these are 6.4 MB/s
STEP_SECONDS: Final = 2.0  # of a slow disk: the process that reads also ends expired leases
DUE_AFTER: Final = timedelta(days=1)
BATCH: Final = 1000
logger = logging.getLogger(__name__)


@dataclass
class Scrub:
    """One per process. A damaged file's row loses its `verified_at`: who uses the file next reads it whole; the scrub
    itself does so after a day, so that what stays damaged neither fills the log nor keeps the others waiting.
    """

    settings: Settings
    sessions: sessionmaker[Session]
    step_bytes: int = STEP_BYTES
    step_seconds: float = STEP_SECONDS
    batch: int = BATCH
    _steps: Iterator[int] | None = field(default=None, init=False)
    _damaged: dict[str, float] = field(default_factory=dict, init=False)  # by path, when it was found so

    def step(self) -> None:
        """Read some bytes, for a few seconds. A pass that has ended begins again."""
        self._steps = self._steps or self._pass()
        left, until = self.step_bytes, time.monotonic() + self.step_seconds
        try:
            while (count := next(self._steps, None)) is not None:
                left -= count
                if left <= 0 or time.monotonic() >= until:
                    return
        except POSTGRES_UNAVAILABLE as error:
            logger.warning("no scrub, Postgres is unavailable: %s", error)
        self._steps = None

    def _pass(self) -> Iterator[int]:
        """Read the rows that are due, the least recently read first; yields the number of bytes after each read, and 0
        after each row.
        """
        recent = time.monotonic() - DUE_AFTER.total_seconds()
        self._damaged = {path: found_at for path, found_at in self._damaged.items() if found_at > recent}
        with transaction(self.sessions) as session:
            before = session.scalars(select(func.now())).one() - DUE_AFTER
            due = list(stored.stored_rows(session, before=before, limit=self.batch, but=self._damaged))
        for listed in due:
            with transaction(self.sessions) as session:  # a pass may take days
                row = stored.current(session, listed)
            if row is not None:
                self._record(row, (yield from self._read(row)))
            yield 0

    def _record(self, row: stored.Row, name: str | None) -> None:
        """Note what was found of a row's files, unless others took their place meanwhile."""
        with transaction(self.sessions) as session:
            now = stored.current(session, row)
            if now is None or stored.promised(now) != stored.promised(row):
                return
            if isinstance(now, Dataset) and now.deleted_at is not None:
                return
            stored.record_read(session, [row], whole=name is None)
        if name is not None:
            self._damaged[row.path] = time.monotonic()
            logger.error("%s", stored.describe_damage(row, name))
            if isinstance(row, Dataset):
                caches.drop_derived(self.settings.run_root / row.path)

    def _read(self, row: stored.Row) -> Generator[int, None, str | None]:
        """Like `stored.damaged`, in steps."""
        root = self.settings.run_root
        if isinstance(row, Dataset) and (name := stored.damaged_json(root, row)) is not None:
            return name
        files = stored.promised(row)
        if not files:
            return stored.MANIFEST
        for path, sha256 in files.items():
            digest = hashlib.sha256()
            if not (root / path).is_file():
                return Path(path).name
            try:
                with (root / path).open("rb", buffering=0) as file:
                    while chunk := file.read(CHUNK):
                        digest.update(chunk)
                        yield len(chunk)
            except OSError:
                return Path(path).name
            if digest.hexdigest() != sha256:
                return Path(path).name
        return None
