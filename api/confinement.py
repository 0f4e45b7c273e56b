"""Server paths that clients name: inside the data root, with every symbolic link followed first, or not at all."""

from pathlib import Path

from api.errors import Refused, invalid


def confine(data_root: Path, path: str, pointer: str) -> str:
    """The path, relative to the data root, of an existing regular file. Raises Refused (422) at `pointer`.

    Whether a file exists outside the root is not told.
    """
    root = data_root.resolve()
    try:
        resolved = (root / path).resolve()
        inside = resolved.is_relative_to(root) and resolved != root
        found = inside and resolved.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a loop of links, a NUL
        raise invalid(pointer, "this is not a path", "invalid_path") from error
    if not inside:
        raise outside(pointer)
    if not found:
        raise invalid(pointer, f"there is no file {path!r} under the server's data root", "file_not_found")
    return resolved.relative_to(root).as_posix()


def outside(pointer: str) -> Refused:
    return invalid(pointer, "the path leaves the server's data root", "path_outside_data_root")


def under(root: Path, relative: str) -> Path | None:
    """The existing file `relative` of a folder of our own; None when it is gone or is not inside."""
    base = root.resolve()
    resolved = (base / relative).resolve()
    return resolved if resolved.is_relative_to(base) and resolved.is_file() else None
