"""Files on their way out, which tell how much of them has been read; and on their way in, there only whole."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class Counter:
    """Adds up over the files of one request; `sent` hears how many bytes of how many."""

    def __init__(self, total: int, sent: Callable[[int, int], object] | None) -> None:
        self._total, self._sent, self._count = total, sent, 0

    def add(self, count: int) -> None:
        self._count += count
        if self._sent is not None:
            self._sent(self._count, self._total)


class Watched:
    """A binary file that counts what is read of it."""

    def __init__(self, file: BinaryIO, counter: Counter) -> None:
        self._file, self._counter = file, counter

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._counter.add(len(data))
        return data

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def as_object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


@contextmanager
def whole(file: Path) -> Iterator[BinaryIO]:
    """A file beside `file` to write to, which takes its place at the end; before that `file` is as it was."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("wb") as out:
            yield out
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
