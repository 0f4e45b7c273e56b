"""Opens a file with the reader of its format."""

from dataclasses import replace
from pathlib import Path

from atft.data.read.cells import PLAIN
from atft.data.read.csv import DelimitedFile, open_delimited_file
from atft.data.read.tables import Table, open_binary, open_folder
from atft.data.read.types import Content, content_of
from atft.data.schema import DataError
from atft.spec.data import TableFile


def open_file(path: Path, written: TableFile = PLAIN) -> Table | DelimitedFile:
    """A Parquet, Arrow or text file, detected by its first bytes, or a folder of Parquet files. Raises DataError."""
    if path.is_dir():
        return replace(open_folder(path), written=written)
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror})") from error
    if not head:
        raise DataError(f"{path.name} is empty")
    binary = open_binary(path, head)
    return open_delimited_file(path, head, written) if binary is None else replace(binary, written=written)


def read_small(path: Path, written: TableFile) -> tuple[Table, list[str], list[str]]:
    """A small file, its columns that a role may have, and the others; a text file's cells stay text.

    Raises DataError.
    """
    found = open_file(path, written)
    if isinstance(found, DelimitedFile):
        return found.table(found.names), found.names, []
    readable = [field.name for field in found.schema if content_of(field.type) is not Content.OTHER]
    return found, readable, [name for name in found.schema.names if name not in readable]
