"""Server paths that clients name: inside the data root, with every symbolic link followed first, or not at all."""

from pathlib import Path

from api.http.errors import Refused, invalid
from jobs.paths import InvalidPath, NotFound, OutsideRoot, resolve_inside


def confine(data_root: Path, path: str, pointer: str, *, folders: bool = False) -> str:
    """The path, relative to the data root, of an existing regular file, or folder of such files. Raises Refused (422)
    at `pointer`.

    Whether a file exists outside the root is not told.
    """
    try:
        return resolve_inside(data_root, path, folders=folders).relative_to(data_root.resolve()).as_posix()
    except OutsideRoot as error:
        raise outside(pointer) from error
    except InvalidPath as error:
        raise invalid(pointer, str(error), "invalid_path") from error
    except NotFound as error:
        raise invalid(pointer, f"{error} under the server's data root", "file_not_found") from error


def outside(pointer: str) -> Refused:
    return invalid(
        pointer, "the path leaves the server's data root, or there is a symbolic link in it", "path_outside_data_root"
    )


def under(root: Path, relative: str) -> Path | None:
    """The existing file `relative` of a folder of our own; None when it is gone or is not inside."""
    base = root.resolve()
    resolved = (base / relative).resolve()
    return resolved if resolved.is_relative_to(base) and resolved.is_file() else None
