"""Output files of a finished child, flushed and hashed before they are recorded, and the cache of a dataset build."""

import errno
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from atft.checksums import sha256_of, sync
from atft.events import Artifact
from jobs.record.caches import drop_derived
from jobs.settings import Settings


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
    sync(path)
    return Output(
        name=artifact.name,
        path=str(path.relative_to(run_root)),
        size_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        media_type=artifact.media_type,
    )


def _has_bytes_of(path: Path, file: Path) -> bool:
    """Whether `path` is a file with the bytes of `file`; removes what is in its way."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    return path.is_file() and not path.is_symlink() and sha256_of(path) == sha256_of(file)


def install_cache(settings: Settings, built: Path, fingerprint: str) -> Path:
    """Move a built cache to `caches/{fingerprint}`; returns the path. A build whose content was cached already leaves
    no folder to move. Where there is one although this was built, it was damaged, or another job has just built it: the
    files with other bytes are replaced one by one, so that a reader finds each file at any time.
    """
    cache = settings.caches_root.resolve() / fingerprint
    if not fingerprint.isalnum():
        raise MissingOutput(f"the fingerprint {fingerprint!r} is no name for a folder")
    if not built.is_dir():
        return cache
    cache.parent.mkdir(parents=True, exist_ok=True)
    if cache.is_symlink() or cache.is_file():
        cache.unlink()
    try:
        built.rename(cache)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        for file in sorted(built.iterdir(), key=lambda file: file.name == "manifest.json"):
            if file.is_file() and not _has_bytes_of(cache / file.name, file):
                drop_derived(cache)
                file.replace(cache / file.name)
        sync(cache)
        shutil.rmtree(built)
    sync(cache.parent)
    return cache
