"""Confines the server paths that clients give to the data root, after symbolic links have been resolved."""

from pathlib import Path

from api.http.errors import Refused, invalid
from jobs.paths import InvalidPath, NotFound, OutsideRoot, resolve_inside


def resolve_data_path(data_root: Path, path: str, pointer: str, *, folders: bool = False) -> str:
    """The path, relative to the data root, of an existing regular file, or folder of such files. Raises Refused (422)
    at `pointer`, with one error for every path outside the root, whether it exists or not.
    """
    try:
        return resolve_inside(data_root, path, folders=folders).relative_to(data_root.resolve()).as_posix()
    except OutsideRoot as error:
        raise outside_data_root(pointer) from error
    except InvalidPath as error:
        raise invalid(pointer, str(error), "invalid_path") from error
    except NotFound as error:
        raise invalid(pointer, f"{error} under the server's data root", "file_not_found") from error


def outside_data_root(pointer: str) -> Refused:
    """The error (422) for a path that leaves the data root."""
    return invalid(
        pointer, "the path leaves the server's data root, or there is a symbolic link in it", "path_outside_data_root"
    )


def existing_file(root: Path, relative: str) -> Path | None:
    """The file `relative` in the folder `root`; None when it does not exist or lies outside the folder."""
    base = root.resolve()
    resolved = (base / relative).resolve()
    return resolved if resolved.is_relative_to(base) and resolved.is_file() else None
