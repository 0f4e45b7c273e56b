"""What a finished child leaves: declared files, hashed and flushed before their rows exist, and a dataset's cache."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atft.events import Artifact
from jobs.settings import Settings
from jobs.tables import Json

_CHUNK: Final = 1 << 20


class Missing(Exception):
    """A declared output is not there, or not where it may be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One whole file; `path` is relative to the run root."""

    name: str
    path: str
    size_bytes: int
    sha256: str
    media_type: str


def collect(settings: Settings, folder: Path, declared: Iterable[Artifact]) -> list[Output]:
    """The declared files of an attempt's folder, each flushed to disk and hashed. Raises Missing, OSError."""
    run_root = settings.run_root.resolve()
    return [_collect_one(run_root, folder, artifact) for artifact in declared]


def _collect_one(run_root: Path, folder: Path, artifact: Artifact) -> Output:
    path = (folder / artifact.path).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise Missing(f"the declared artifact {artifact.name!r} ({artifact.path}) does not exist")
    return Output(
        name=artifact.name,
        path=str(path.relative_to(run_root)),
        size_bytes=path.stat().st_size,
        sha256=flush_and_hash(path),
        media_type=artifact.media_type,
    )


def flush_and_hash(path: Path) -> str:
    """SHA-256 of a file whose bytes are on the disk when this returns."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def place_cache(settings: Settings, built: Path, fingerprint: str) -> tuple[str, int]:
    """Rename a built cache to `caches/{fingerprint}`, or drop it when that exists; its path and size."""
    place = settings.caches_root.resolve() / fingerprint
    if not built.is_dir():
        raise Missing("the program built no cache")
    if not fingerprint.isalnum():
        raise Missing(f"the fingerprint {fingerprint!r} is no name for a folder")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        built.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(built)
    flush_folder(place.parent)
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return str(place.relative_to(settings.run_root.resolve())), size


def flush_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Json:
    """Raises Missing when the file is not there or is not an object."""
    try:
        body = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise Missing(f"{path.name} of the cache cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise Missing(f"{path.name} of the cache is no object")
    return body
