"""The one reader of columns with a role, for panel, market and universe files: dates, codes, numbers and flags, by the
same rules in every file and format. Wrong cells are collected, and refused or dropped together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from atft.data.read.cells import (
    FALSE_MARKERS,
    FIRST_DAY,
    LAST_DAY,
    MISSING_MARKERS,
    TRUE_MARKERS,
    clocks_in_text,
    dates_by_format,
    dates_from_text,
    labels_of,
    numbers_from_text,
    row_numbers,
)
from atft.data.read.instants import check_instants
from atft.data.read.notation import date_advice, number_advice
from atft.data.read.tables import Table
from atft.data.read.types import check_type, plain_type
from atft.data.schema import DataError
from atft.spec.data import OnBadCell

MAX_NAMED = 20  # bad cells that a message names
MAX_RETURN = 1000.0  # +100,000 % in a day is a unit error or a missed split, not a price


@dataclass(frozen=True, kw_only=True, slots=True)
class BadCells:
    """The cells of one column that cannot be read in its role."""

    column: str
    rows: pl.Series  # mask
    problem: str  # "is not a date"
    advice: str

    def message(self, frame: pl.DataFrame, keys: pl.DataFrame, limit: int) -> str:
        """How many they are, and the first `limit` of them by row, date and code."""
        numbers = row_numbers(self.rows, limit)
        named = keys[[n - 1 for n in numbers]].rows() if keys.width else [()] * len(numbers)
        shown = [
            " ".join(["row", str(n), *(str(x) for x in key if x is not None)]) + f": {_cell(frame[self.column], n - 1)}"
            for n, key in zip(numbers, named, strict=True)
        ]
        such = f", such as {'; '.join(shown)}" if shown else ""
        return f"column {self.column!r} {self.problem} in {self.rows.sum():,} rows{such}: {self.advice}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DroppedRows:
    """The rows of one file that `on_bad_cell: drop` has left out."""

    file: str
    num_rows: int
    cells: dict[str, int]  # bad cells by column
    message: str

    def to_json(self) -> dict[str, object]:
        return {"file": self.file, "num_rows": self.num_rows, "cells": self.cells, "message": self.message}


class ColumnReader:
    """Reads columns of one file. `columns` are in memory as `frame`; bad cells become null until `settle`."""

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        self.name = table.name
        self.schema = table.schema
        self.written = table.written
        self.frame = table.frame(columns)
        self.warnings: list[str] = []
        self.whole_numbers: set[str] = set()  # columns of labels whose decimals, all zero, were left out
        self._keys: dict[str, pl.Series] = {}  # @date and @code, for messages
        self._bad: list[BadCells] = []

    def dates(self, column: str) -> pl.Series:
        """The days of a column of dates, instants, text or numbers like 20240131. Raises DataError for instants that
        are another day elsewhere.
        """
        series = self._checked(column, "date")
        if series.dtype == pl.Date:
            days = series
        elif isinstance(series.dtype, pl.Datetime):
            days = series.dt.date()
            self._check_clock(series.drop_nulls().unique(), plain_type(self.schema.field(column).type).tz, column)
        else:
            text = (series.cast(pl.Int64, strict=False) if series.dtype.is_decimal() else series).cast(pl.String)
            text = text.str.strip_chars()
            if self.written.date_format is not None:
                days, clock = dates_by_format(text, self.written.date_format)
                clocks: list[tuple[str | None, pl.Series]] = [] if clock is None else [(None, clock)]
            else:
                days, clocks = dates_from_text(text), clocks_in_text(text)
            for zone, clock in clocks:
                self._check_clock(clock, zone, column)
        number = days.cast(pl.Int32)
        bad = number.is_null() | ~number.is_between(FIRST_DAY, LAST_DAY)
        advice = date_advice(self.frame[column].filter(bad), self.written)
        days = self._without(column, days, bad, "is not a date", advice)
        self._keys["@date"] = days
        return days

    def codes(self, column: str) -> pl.Series:
        """Codes as categories of stripped text; 7203.0 is 7203. An empty cell is a bad one."""
        codes = self._labels(column, "code")
        codes = self._without(column, codes, codes.is_null() | (codes == ""), "is empty", "every row needs a code")
        kinds = codes.unique()
        with_nul = kinds.filter(kinds.cast(pl.String).str.contains("\0", literal=True))
        bad = codes.is_in(with_nul.implode()).fill_null(value=False)
        codes = self._without(column, codes, bad, "has NUL", "write codes as plain text")
        self._keys["@code"] = codes
        return codes

    def sectors(self, column: str) -> pl.Series:
        """Names of sectors as categories, null where missing."""
        names = self._labels(column, "sector")
        kinds = names.unique()
        missing = kinds.filter(kinds.cast(pl.String).str.to_lowercase().is_in(MISSING_MARKERS))
        return names.set(names.is_in(missing.implode()).fill_null(value=False), None) if len(missing) else names

    def numbers(self, column: str) -> pl.Series:
        """The column as Float64, missing values null; infinity is a bad cell."""
        series = self._checked(column, "number")
        if series.dtype in (pl.String, pl.Categorical):
            values, failed = numbers_from_text(series, self.written)
            advice = number_advice(series.filter(failed))
            values = self._without(column, values, failed, "is not a number", advice)
        else:
            values = series.cast(pl.Float64)
        infinite = values.is_infinite().fill_null(value=False)
        values = self._without(column, values, infinite, "is infinite", "leave it empty instead")
        return values.fill_nan(None)

    def prices(self, column: str) -> pl.Series:
        """Numbers above 0."""
        values = self.numbers(column)
        bad = (values <= 0).fill_null(value=False)
        return self._without(column, values, bad, "is zero or negative", "correct or remove these rows")

    def volumes(self, column: str) -> pl.Series:
        """Numbers from 0 on."""
        values = self.numbers(column)
        return self._without(
            column, values, (values < 0).fill_null(value=False), "is negative", "correct or remove these rows"
        )

    def returns(self, column: str) -> pl.Series:
        """Numbers from -100 % to +100,000 %, as fractions."""
        values = self.numbers(column)
        bad = ((values < -1.0) | (values > MAX_RETURN)).fill_null(value=False)
        problem = f"holds values that are no returns (below -100 % or above +{MAX_RETURN:.0%})"
        return self._without(
            column, values, bad, problem, "returns are fractions, .01 for +1 %: correct or remove these rows"
        )

    def flags(self, column: str) -> pl.Series:
        """The column as booleans."""
        text = self._checked(column, "flag").cast(pl.String).str.strip_chars().str.to_lowercase()
        unknown = ~text.is_in([*TRUE_MARKERS, *FALSE_MARKERS]).fill_null(value=False)
        return self._without(
            column, text.is_in(TRUE_MARKERS), unknown, "is neither true nor false", "write true or false"
        )

    def years(self, column: str) -> pl.Series:
        """Whole numbers that are calendar years."""
        number = self.numbers(column)
        bad = ~(number.is_between(1800, 2199) & (number == number.round())).fill_null(value=False)
        number = self._without(column, number, bad, "is not a year", "write years such as 2024")
        return number.cast(pl.Int32)

    def settle(self, on_bad_cell: OnBadCell) -> tuple[pl.Series | None, DroppedRows | None]:
        """After the last column: the mask of the rows to keep, None for all, and what is dropped. Raises DataError that
        counts all bad cells and names the first twenty, unless they are to be dropped.
        """
        if not self._bad:
            return None, None
        count = sum(int(bad.rows.sum()) for bad in self._bad)
        left, parts, keys = MAX_NAMED, [], pl.DataFrame(self._keys)
        for bad in self._bad:
            parts.append(bad.message(self.frame, keys, left))
            left = max(0, left - int(bad.rows.sum()))
        text = f"{count:,} bad cells: {'; '.join(parts)}"
        if on_bad_cell == "refuse":
            raise DataError(f"{self.name} has {text} (on_bad_cell: drop leaves out the rows of such cells)")
        mask = self._bad[0].rows
        for bad in self._bad[1:]:
            mask |= bad.rows
        if mask.all():
            raise DataError(f"{self.name}: every row has a bad cell. It has {text}")
        cells: dict[str, int] = {}
        for bad in self._bad:
            cells[bad.column] = cells.get(bad.column, 0) + int(bad.rows.sum())
        return ~mask, DroppedRows(file=self.name, num_rows=int(mask.sum()), cells=cells, message=text)

    def _labels(self, column: str, role: str) -> pl.Series:
        labels, cut = labels_of(self._checked(column, role))
        if cut:
            self.whole_numbers.add(column)
        return labels

    def _checked(self, column: str, role: str) -> pl.Series:
        check_type(self.name, column, self.schema.field(column).type, role)
        return self.frame[column]

    def _check_clock(self, clock: pl.Series, zone: str | None, column: str) -> None:
        warning = check_instants(clock, zone, f"{self.name}: column {column!r}")
        if warning is not None:
            self.warnings.append(warning)

    def _without(self, column: str, values: pl.Series, bad: pl.Series, problem: str, advice: str) -> pl.Series:
        """`values` with null in the bad cells, which are remembered, each once."""
        for known in self._bad:
            if known.column == column:
                bad &= ~known.rows
        if not bad.any():
            return values
        self._bad.append(BadCells(column=column, rows=bad, problem=problem, advice=advice))
        return pl.select(pl.when(~bad).then(values)).to_series().alias(values.name)


def _cell(series: pl.Series, row: int) -> str:
    if series.dtype == pl.Date and not FIRST_DAY <= (day := series.cast(pl.Int32)[row] or 0) <= LAST_DAY:
        return f"day {day} since 1970"  # Python has no such day
    if isinstance(series.dtype, pl.Datetime):
        return f"{series.cast(pl.Int64)[row]} {series.dtype.time_unit} since 1970"
    cell = series[row]
    return repr(cell)[:80] if isinstance(cell, str) else str(cell)
