"""Uploads that report their progress, and downloads that are written atomically."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class UploadProgress:
    """Bytes sent of all files of one request; calls `on_progress(sent, total)` at each step."""

    def __init__(self, total: int, on_progress: Callable[[int, int], object] | None) -> None:
        self._total, self._on_progress, self._sent = total, on_progress, 0

    def add(self, count: int) -> None:
        self._sent += count
        if self._on_progress is not None:
            self._on_progress(self._sent, self._total)


class CountingReader:
    """A binary file that adds the bytes read from it to an UploadProgress."""

    def __init__(self, file: BinaryIO, progress: UploadProgress) -> None:
        self._file, self._progress = file, progress

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._progress.add(len(data))
        return data

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def as_mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


@contextmanager
def atomic_write(file: Path) -> Iterator[BinaryIO]:
    """Write to a temporary file beside `file` that replaces it on success; on an error `file` stays unchanged."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("wb") as out:
            yield out
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
