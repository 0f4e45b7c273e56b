"""Resolution of untrusted paths: symbolic links are followed, and the result must lie under a root."""

import os
from pathlib import Path
from typing import Final
from uuid import UUID

MAX_FILES: Final = 100_000  # of a partitioned folder


class OutsideRoot(Exception):
    """The path lies outside of the root. The error does not reveal whether it exists."""


class NotFound(Exception):
    """There is no readable file or folder at the path; the message names the path."""


class InvalidPath(NotFound):
    """The string is not a valid path: too long, a loop of links, or with a NUL character."""


def checkpoint_folder(jobs_root: Path, job_id: UUID, path: str) -> Path:
    """The folder of the checkpoint recorded as `path`, relative to the job's folder; a retry has `../{source}/…`."""
    return Path(os.path.normpath(jobs_root.resolve() / str(job_id) / path))


def resolve_inside(root: Path, relative: str, *, folders: bool = False) -> Path:
    """The absolute path of an existing file, or with `folders` also of a folder. Raises OutsideRoot, NotFound."""
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
    """Refuse a folder that is empty, too big, or has a symbolic link, which readers would follow out of the root."""
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
