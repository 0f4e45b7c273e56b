"""Readers of the optional files beside a panel: the universe (which stock is a member when) and market-wide series. The
files are small and read whole.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from atft.data.read.cells import numbers_from_text, parse_dates, parse_numbers, row_numbers
from atft.data.read.opening import read_table
from atft.data.schema import DataError, Days, format_names, normalized_name
from atft.spec.data import SideFile


def read_universe(side: SideFile) -> pl.DataFrame:
    """The universe file as {year, code} or {date, code}; other columns (rank, …) are dropped. Raises DataError."""
    path = Path(side.file)
    frame = read_table(path)
    found = _side_columns(
        frame.columns,
        side,
        {"code": ("code", "ticker", "symbol"), "year": ("year",), "date": ("date", "day")},
        path.name,
    )
    if "code" not in found or not {"year", "date"} & set(found):
        raise DataError(
            f"universe file {path.name} has {format_names(frame.columns)}: it needs code and either year or date "
            "(map them with universe.columns)"
        )
    code = frame[found["code"]].cast(pl.String).str.strip_chars().alias("code")
    if "date" in found:
        return pl.DataFrame([parse_dates(frame[found["date"]], path.name).alias("date"), code])
    number = frame[found["year"]].cast(pl.String).cast(pl.Float64, strict=False)
    year = number.cast(pl.Int32, strict=False).alias("year")
    year = year.set((year != number).fill_null(value=True), None)
    if bad := row_numbers(year.is_null()):
        raise DataError(f"universe file {path.name}: column {found['year']!r} is not a year in row {bad}")
    return pl.DataFrame([year, code])


def read_market(side: SideFile) -> dict[str, tuple[Days, npt.NDArray[np.float64]]]:
    """Market series by name: the closes of a long file {date, name, close}, or the numeric columns of a wide one.

    Raises DataError.
    """
    path = Path(side.file)
    frame = read_table(path)
    found = _side_columns(
        frame.columns,
        side,
        {"date": ("date", "day"), "name": ("name", "code", "ticker", "symbol"), "close": ("close", "value", "price")},
        path.name,
    )
    if "date" not in found:
        raise DataError(
            f"market file {path.name} has {format_names(frame.columns)}: it needs a date column "
            "(map it with market.columns)"
        )
    days = parse_dates(frame[found["date"]], path.name).alias("@date")
    rows = pl.DataFrame([days])
    wide: dict[str, tuple[pl.DataFrame, str]] = {}
    if "name" in found and "close" in found:
        table = rows.with_columns(frame[found["name"]].cast(pl.String).alias("@code"))
        table = table.with_columns(parse_numbers(frame[found["close"]], table, path.name).alias("@close"))
        for (series_name,), part in table.group_by(["@code"], maintain_order=True):
            wide[str(series_name)] = (part, "@close")
    else:
        for column in frame.columns:
            if (
                column != found["date"]
                and frame[column].dtype != pl.Boolean
                and (frame[column].dtype.is_numeric() or not numbers_from_text(frame[column])[1].any())
            ):
                wide[column] = (rows.with_columns(parse_numbers(frame[column], rows, path.name).alias(column)), column)
    if not wide:
        raise DataError(f"market file {path.name} has no numeric column beside the date")
    result = {}
    for series_name, (table, column) in sorted(wide.items()):
        part = table.drop_nulls(column).sort("@date")
        if part["@date"].is_duplicated().any():
            raise DataError(f"market file {path.name} repeats a date for {series_name!r}: keep one row for each date")
        result[series_name] = (part["@date"].to_numpy().astype("datetime64[D]"), part[column].to_numpy())
    return result


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
