"""Files that a client or a job names: under a root of ours, with every symbolic link followed first, or not at all."""

import os
from pathlib import Path
from typing import Final
from uuid import UUID

MAX_FILES: Final = 100_000  # of a partitioned folder


class OutsideRoot(Exception):
    """The path leads out of the root. Whether anything is there is not told."""


class NotFound(Exception):
    """Nothing that can be read is there; the message says what was looked for."""


class InvalidPath(NotFound):
    """No file could have this name."""


def checkpoint_folder(jobs_root: Path, job_id: UUID, path: str) -> Path:
    """Of the checkpoint recorded as `path`: under the job's own folder, or in a retry `../{source}/…`."""
    return Path(os.path.normpath(jobs_root.resolve() / str(job_id) / path))


def resolve_inside(root: Path, relative: str, *, folders: bool = False) -> Path:
    """The existing regular file, or a folder of such files where `folders` allows it, absolute. Raises OutsideRoot,
    NotFound.
    """
    base = root.resolve()
    try:
        path = (base / relative).resolve()
        if not path.is_relative_to(base) or path == base:
            raise OutsideRoot(relative)
        if path.is_file():
            return path
        if folders and path.is_dir():
            _check_folder(path, relative)
            return path
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a loop of links, a NUL
        raise InvalidPath("this is not a path") from error
    raise NotFound(f"there is no file {'or folder ' if folders else ''}{relative!r}")


def _check_folder(path: Path, relative: str) -> None:
    """A link inside could lead anywhere, and whoever reads the folder would follow it: there must be none."""
    count = 0
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            if (Path(folder) / name).is_symlink():
                raise OutsideRoot(relative)
        count += len(files)
        if count > MAX_FILES:
            raise NotFound(f"folder {relative!r} has more than {MAX_FILES:,} files")
    if count == 0:
        raise NotFound(f"folder {relative!r} has no files")
