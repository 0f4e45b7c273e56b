"""Output files of a finished child, flushed and hashed before they are recorded, and the cache of a dataset build."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atft.events import Artifact
from jobs.settings import Settings

_CHUNK: Final = 1 << 20


class MissingOutput(Exception):
    """A declared output does not exist, or lies outside the attempt's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One complete output file; `path` is relative to the run root."""

    name: str
    path: str
    size_bytes: int
    sha256: str
    media_type: str


def collect_outputs(settings: Settings, folder: Path, declared: Iterable[Artifact]) -> list[Output]:
    """The declared files of an attempt's folder, each flushed to disk and hashed. Raises MissingOutput, OSError."""
    run_root = settings.run_root.resolve()
    return [_collect_one(run_root, folder, artifact) for artifact in declared]


def _collect_one(run_root: Path, folder: Path, artifact: Artifact) -> Output:
    path = (folder / artifact.path).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise MissingOutput(f"the declared artifact {artifact.name!r} ({artifact.path}) does not exist")
    return Output(
        name=artifact.name,
        path=str(path.relative_to(run_root)),
        size_bytes=path.stat().st_size,
        sha256=flush_and_hash(path),
        media_type=artifact.media_type,
    )


def flush_and_hash(path: Path) -> str:
    """Flush a file to disk (fsync) and return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def install_cache(settings: Settings, built: Path, fingerprint: str) -> Path:
    """Move a built cache to `caches/{fingerprint}`, or remove it when that exists; returns the path. A build whose
    content was cached already leaves no folder to move.
    """
    cache = settings.caches_root.resolve() / fingerprint
    if not fingerprint.isalnum():
        raise MissingOutput(f"the fingerprint {fingerprint!r} is no name for a folder")
    if not built.is_dir():
        return cache
    cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        built.rename(cache)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(built)
    flush_folder(cache.parent)
    return cache


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk (fsync), so that a rename inside it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
