"""Readers of the optional files beside a panel: the universe (which stock is a member when) and market-wide series. The
files are small and read whole, by the rules of a panel's columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from atft.data.read.cells import INDEX_NAME, numbers_from_text
from atft.data.read.columns import ColumnReader, DroppedRows
from atft.data.read.instants import weekend_warning
from atft.data.read.opening import read_small
from atft.data.read.types import Content, content_of
from atft.data.schema import DataError, Days, format_names, normalized_name
from atft.spec.data import OnBadCell, SideFile

MOSTLY_NUMBERS = 0.5  # of a text column's cells: the others are then typing errors
T = TypeVar("T")
Series = dict[str, tuple[Days, npt.NDArray[np.float64]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SideTable(Generic[T]):
    """What a file beside the panel says, and how it was read."""

    value: T
    warnings: list[str] = field(default_factory=list)
    dropped: DroppedRows | None = None
    later_rules: list[str] = field(default_factory=list)  # see Source


def read_universe(side: SideFile, on_bad_cell: OnBadCell) -> SideTable[pl.DataFrame]:
    """The universe file as {year, code} or {date, code}; other columns (rank, …) are dropped. Raises DataError."""
    path = Path(side.file)
    table, readable, other = read_small(path, side)
    found = _side_columns(
        [*readable, *other],
        side,
        {"code": ("code", "ticker", "symbol"), "year": ("year",), "date": ("date", "day")},
        path.name,
    )
    if "code" not in found or not {"year", "date"} & set(found):
        raise DataError(
            f"universe file {path.name} has {format_names([*readable, *other])}: it needs code and either year or date "
            "(map them with universe.columns)"
        )
    when = "date" if "date" in found else "year"
    reader = ColumnReader(table, [found[when], found["code"]])
    column = (reader.dates if when == "date" else reader.years)(found[when])
    frame = pl.DataFrame([column.alias(when), reader.codes(found["code"]).cast(pl.String).alias("code")])
    keep, dropped = reader.settle(on_bad_cell)
    if keep is not None:
        frame = frame.filter(keep)
    return SideTable(
        value=frame,
        warnings=[*reader.warnings, *_weekends(frame, when, path.name)],
        dropped=dropped,
        later_rules=[f"universe {name}: whole numbers" for name in sorted(reader.whole_numbers)],
    )


def read_market(side: SideFile, on_bad_cell: OnBadCell) -> SideTable[Series]:
    """Market series by name: the closes of a long file {date, name, close}, or the numeric columns of a wide one.

    Raises DataError.
    """
    path = Path(side.file)
    table, readable, other = read_small(path, side)
    found = _side_columns(
        [*readable, *other],
        side,
        {"date": ("date", "day"), "name": ("name", "code", "ticker", "symbol"), "close": ("close", "value", "price")},
        path.name,
    )
    if "date" not in found:
        raise DataError(
            f"market file {path.name} has {format_names([*readable, *other])}: it needs a date column "
            "(map it with market.columns)"
        )
    long = "name" in found and "close" in found
    others = [c for c in readable if c != found["date"]]
    numeric = [c for c in others if content_of(table.schema.field(c).type) in (Content.NUMBER, Content.TEXT)]
    reader = ColumnReader(table, [found["date"], *([found["name"], found["close"]] if long else numeric)])
    frame = pl.DataFrame([reader.dates(found["date"]).alias("@date")])
    later_rules: list[str] = []
    if long:
        close = reader.numbers(found["close"])
        frame = frame.with_columns(reader.codes(found["name"]).cast(pl.String).alias("@name"), close.alias("@close"))
    else:
        passed_over = [*other, *(c for c in others if c not in numeric)]
        empty = [c for c in others if content_of(table.schema.field(c).type) is Content.EMPTY]
        later_rules = [f"market {c}: nothing" for c in sorted(empty)]
        for column in numeric:
            if not _holds_numbers(reader.frame[column], side):
                passed_over.append(column)
            elif INDEX_NAME.match(column):
                passed_over.append(column)
                later_rules.append(f"market {column}: row number")
            else:
                frame = frame.with_columns(reader.numbers(column).alias(column))
        if passed_over:
            reader.warnings.append(
                f"market file {path.name}: columns {format_names(passed_over)} are no series: they hold no numbers, or "
                "row numbers by their names"
            )
    keep, dropped = reader.settle(on_bad_cell)
    if keep is not None:
        frame = frame.filter(keep)
    series = _long_series(frame, path.name) if long else _wide_series(frame, path.name)
    if not series:
        raise DataError(f"market file {path.name} has no numeric column beside the date")
    return SideTable(
        value=series,
        warnings=[*reader.warnings, *_weekends(frame, "@date", path.name)],
        dropped=dropped,
        later_rules=[*later_rules, *(f"market {name}: whole numbers" for name in sorted(reader.whole_numbers))],
    )


def _holds_numbers(cells: pl.Series, side: SideFile) -> bool:
    """Whether a column of a wide file holds numbers, most of its cells at least."""
    if cells.dtype in (pl.String, pl.Categorical):
        values, failed = numbers_from_text(cells, side)
        known = len(values) - values.null_count()
        if failed.any() and known <= MOSTLY_NUMBERS * (known + int(failed.sum())):
            return False
    return True


def _wide_series(frame: pl.DataFrame, file: str) -> Series:
    return {name: _one_series(frame.select("@date", name), name, file) for name in sorted(frame.columns[1:])}


def _long_series(frame: pl.DataFrame, file: str) -> Series:
    parts = {str(name): part for (name,), part in frame.group_by(["@name"], maintain_order=True)}
    return {name: _one_series(parts[name].select("@date", "@close"), name, file) for name in sorted(parts)}


def _one_series(part: pl.DataFrame, name: str, file: str) -> tuple[Days, npt.NDArray[np.float64]]:
    part = part.drop_nulls(part.columns[1]).sort("@date")
    if part["@date"].is_duplicated().any():
        raise DataError(f"market file {file} repeats a date for {name!r}: keep one row for each date")
    return part["@date"].to_numpy().astype("datetime64[D]"), part[part.columns[1]].to_numpy()


def _weekends(frame: pl.DataFrame, column: str, file: str) -> list[str]:
    warning = weekend_warning(frame[column], file) if frame[column].dtype == pl.Date else None
    return [] if warning is None else [warning]


def _side_columns(
    names: Sequence[str], side: SideFile, aliases: dict[str, tuple[str, ...]], file: str
) -> dict[str, str]:
    unknown = sorted(set(side.columns) - set(aliases))
    if unknown:
        raise DataError(f"{file}: unknown roles {unknown}; the roles are {sorted(aliases)}")
    missing = [c for c in side.columns.values() if c not in names]
    if missing:
        raise DataError(f"{file} has no columns {missing}; it has {format_names(names)}")
    guessed = {
        role: next((n for a in options for n in names if normalized_name(n) == a), None)
        for role, options in aliases.items()
    }
    return {**{role: column for role, column in guessed.items() if column is not None}, **side.columns}
