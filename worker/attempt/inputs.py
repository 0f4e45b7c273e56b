"""Files that an attempt's child reads, compared with their rows before it may, and again before its results count."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from uuid import UUID

from sqlalchemy.orm import Session

from atft.checksums import Checksums, is_on_local_disk
from atft.spec.job import parse_source
from atft.spec.kinds import KINDS
from jobs.db.tables import Job
from jobs.errors import NotFound
from jobs.record import init_from, stored
from jobs.settings import Settings
from jobs.states import Reason
from worker.attempt.launch import LaunchRefused


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """The rows of what a job reads: its dataset's cache, and what the jobs left that it begins with."""

    rows: tuple[stored.Row, ...]
    weights: init_from.Weights | None = None
    files: frozenset[tuple[object, ...]] = frozenset()  # which they were when they were found whole

    @classmethod
    def of(cls, session: Session, job: Job) -> "Inputs":
        """Raises LaunchRefused when the weights that `init_from` names no longer exist."""
        kind = KINDS[job.kind]
        if kind.builds:
            return cls(rows=())
        version = stored.version_of(session, job)
        rows: list[stored.Row] = [version] if version is not None else []
        if kind.needs_model:
            model = (job.params or {})["model"]
            folder = PurePosixPath(model["folder"])  # jobs/{job}/{attempt}
            rows += stored.artifacts_for_others(session, UUID(folder.parent.name), model["weights"].split(", "))
        source = job.run.get("init_from")
        if source is None:
            return cls(rows=tuple(rows))
        job_id, member = parse_source(source)
        try:
            weights = init_from.weights(session, UUID(job_id), member)
        except NotFound as error:
            raise LaunchRefused(Reason.INVALID_PARAMS, f"init_from: {error}") from error
        rows += stored.artifacts_for_others(session, UUID(job_id), weights.sha256)
        return cls(rows=tuple(rows), weights=weights)

    def as_of_now(self, session: Session) -> "Inputs":
        """These inputs with their rows as they are now: one may have been found damaged, or described anew."""
        return replace(self, rows=tuple(stored.current(session, row) or row for row in self.rows))

    def with_files(self, settings: Settings) -> "Inputs":
        """These inputs with what tells their files from others, to be taken before they are compared."""
        return replace(self, files=self._files(settings))

    def replaced(self, settings: Settings) -> str | None:
        """A sentence when files have been replaced since `with_files`: those that were read need not have been whole,
        as those in their place are.
        """
        if self._files(settings) - self.files:
            return "files that it read were damaged and have been replaced: retry it, from the start"
        return None

    def _files(self, settings: Settings) -> frozenset[tuple[object, ...]]:
        """The path, SHA-256, device and inode of each file that is there; the last two only on local disks: FUSE and
        overlays may number a file anew.
        """
        promised = [item for row in self.rows for item in stored.promised(row).items()]
        found = [(path, sha256, settings.run_root / path) for path, sha256 in promised]
        return frozenset((path, sha256, *_inode(file)) for path, sha256, file in found if file.exists())


def _inode(file: Path) -> tuple[int, ...]:
    stat = file.stat()
    return (stat.st_dev, stat.st_ino) if is_on_local_disk(file) else ()


@dataclass(frozen=True, slots=True)
class Damage:
    """A row with a file that is missing or altered."""

    row: stored.Row
    name: str

    def __str__(self) -> str:
        return stored.describe_damage(self.row, self.name)


def find_damage(
    settings: Settings, rows: Iterable[stored.Row], checksums: Checksums
) -> tuple[Damage | None, list[stored.Row]]:
    """The first of the rows that has a missing or altered file; and those that were read, and found whole, for this."""
    root = settings.run_root.resolve()
    read: list[stored.Row] = []
    for row in rows:
        before = checksums.num_read
        if (name := stored.damaged(root, row, checksums)) is not None:
            return Damage(row, name), read
        if checksums.num_read > before:
            read.append(row)
    return None, read
