"""Reader of one sheet of a workbook: .xlsx, .xlsb, .xls and .ods."""

import datetime as dt
import functools
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from atft.data.read.tables import (
    FREE_BYTES,
    MAX_EXPANSION,
    Table,
    check_column_names,
    table_from_frame,
    unreadable_error,
)
from atft.data.read.wide import two_level_header
from atft.data.schema import DataError, format_names
from atft.spec.data import TableFile

OLE_MAGIC, ZIP_MAGIC = b"\xd0\xcf\x11\xe0", b"PK\x03\x04"
MAX_CELLS = 1 << 26  # of 32 bytes each
CELL = re.compile(rb"""\sr=["']([A-Z]{1,3})(\d{1,8})["']""")
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
WORKBOOK_PARTS = {"xl/workbook.xml", "xl/workbook.bin", "content.xml"}


def open_workbook(path: Path, head: bytes, written: TableFile) -> Table | None:
    """Sheet `written.sheet` (None: the only one) of the workbook that begins with `head`, in memory; None for another
    format. Raises DataError.
    """
    if not (head.startswith(OLE_MAGIC) or (head.startswith(ZIP_MAGIC) and _is_workbook(path))):
        return None
    try:
        import python_calamine as calamine  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise DataError(
            f"{path.name} is a workbook, and the server cannot read them: install atft with the extra excel, or save "
            "the sheet as CSV"
        ) from error
    try:
        if head.startswith(ZIP_MAGIC):
            _check_extents(path)
        with calamine.CalamineWorkbook.from_path(path) as book:
            sheet = _chosen(path, book.sheet_names, written.sheet)
            rows: list[list[Any]] = book.get_sheet_by_name(sheet).to_python()
    except (calamine.CalamineError, *UNREADABLE) as error:
        raise unreadable_error(path.name, "a workbook", error) from error
    return _table(path.name, rows, written.decimal)


def _is_workbook(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if sum(part.file_size for part in parts) > max(FREE_BYTES, MAX_EXPANSION * path.stat().st_size):
                raise DataError(
                    f"{path.name} unpacks to more than {MAX_EXPANSION} times its size: save the sheet as CSV"
                )
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # no archive: other readers try it
        return False
    return any(part.filename in WORKBOOK_PARTS for part in parts)


def _check_extents(path: Path) -> None:
    """Raises DataError if a rectangle around the cells of a sheet (.xlsx), which is allocated, is too large."""
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            width = height = 0
            if part.filename.startswith("xl/worksheets/"):
                for column, row in CELL.findall(archive.read(part)):
                    width, height = max(width, _column_number(column)), max(height, int(row))
            if width * height > MAX_CELLS:
                raise DataError(
                    f"{path.name} has a sheet with cells in column {width:,} and in row {height:,}: delete those far "
                    "from the table, or save it as CSV"
                )


@functools.cache
def _column_number(letters: bytes) -> int:
    return functools.reduce(lambda number, letter: number * 26 + letter - 64, letters, 0)


def _chosen(path: Path, names: Sequence[str], wanted: str | None) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is not None and wanted in names:
        return wanted
    problem = "has several sheets" if wanted is None else f"has no sheet {wanted!r}"
    raise DataError(f"{path.name} {problem}: it has {format_names(names)}; name one with sheet (--sheet)")


def _table(name: str, rows: list[list[Any]], decimal: str) -> Table:
    """Rows of cells, the first ones the header, as a table."""
    if not rows:
        raise DataError(f"{name} has an empty sheet")
    lines = [[_text(cell) or "" for cell in line] for line in rows[:3]]
    names, header_lines = two_level_header(lines) or (lines[0], 1)
    check_column_names(name, names)
    data = [row for row in rows[header_lines:] if any(cell != "" for cell in row)]
    if not data:
        raise DataError(f"{name} has columns {format_names(names)} but no rows")
    cells = zip(*data, strict=True)
    frame = pl.DataFrame({column: _series(values, decimal) for column, values in zip(names, cells, strict=True)})
    return table_from_frame(frame, name)


def _series(cells: Sequence[Any], decimal: str) -> pl.Series:
    """The cells of a column: dates, instants, numbers or flags if all of them are; else their text, with the decimal
    mark of the text among them.
    """
    known = [cell for cell in cells if cell != ""]
    values = [None if cell == "" else cell for cell in cells]
    kinds = {type(cell) for cell in known}
    if kinds <= {dt.date, dt.datetime} and kinds:
        if kinds == {dt.date}:
            return pl.Series(values, dtype=pl.Date)
        instants = [dt.datetime.combine(v, dt.time()) if type(v) is dt.date else v for v in values]
        return pl.Series(instants, dtype=pl.Datetime("us"))
    if kinds <= {int, float} and kinds:
        return pl.Series(values, dtype=pl.Float64, strict=False)
    if kinds == {bool}:
        return pl.Series(values, dtype=pl.Boolean)
    return pl.Series([_text(cell, decimal) for cell in cells], dtype=pl.String if kinds else pl.Null)


def _text(cell: Any, decimal: str = ".") -> str | None:
    """A cell as it would stand in a text file; whole numbers, which are floats in a workbook, without decimals."""
    if cell == "":
        return None
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else str(cell).replace(".", decimal)
    return str(cell)
