"""Opens a file with the reader of its format."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from atft.data.read.cells import PLAIN
from atft.data.read.csv import DelimitedFile, open_delimited_file
from atft.data.read.database import open_database
from atft.data.read.excel import open_workbook
from atft.data.read.tables import Table, open_binary, open_folder
from atft.data.read.types import Content, content_of
from atft.data.schema import DataError
from atft.spec.data import TableFile


def open_file(path: Path, written: TableFile = PLAIN) -> Table | DelimitedFile:
    """A file of any format, detected by its first bytes, or a folder of Parquet files. Raises DataError."""
    if path.is_dir():
        _check_unused(path, written, ("sheet", "table"))
        return replace(open_folder(path), written=written)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror})") from error
    if not head:
        raise DataError(f"{path.name} is empty")
    if (found := open_database(path, head, written)) is not None:
        _check_unused(path, written, ("sheet",))
    elif (found := open_workbook(path, head, written)) is not None:
        _check_unused(path, written, ("table",))
    else:
        _check_unused(path, written, ("sheet", "table"))
        found = open_binary(path, head)
    return open_delimited_file(path, head, written) if found is None else replace(found, written=written)


def _check_unused(path: Path, written: TableFile, settings: Sequence[str]) -> None:
    if named := [name for name in settings if getattr(written, name) is not None]:
        kinds = {"sheet": "a workbook", "table": "a SQLite or DuckDB file"}
        raise DataError(f"{path.name} is not {kinds[named[0]]}: leave {named[0]} out")


def read_small(path: Path, written: TableFile) -> tuple[Table, list[str], list[str]]:
    """A small file, its columns that a role may have, and the others; a text file's cells stay text.

    Raises DataError.
    """
    found = open_file(path, written)
    if isinstance(found, DelimitedFile):
        return found.table(found.names), found.names, []
    readable = [field.name for field in found.schema if content_of(field.type) is not Content.OTHER]
    return found, readable, [name for name in found.schema.names if name not in readable]
