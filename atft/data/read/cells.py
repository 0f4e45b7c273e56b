"""Parses columns of a user's file into dates, numbers and booleans; every error names rows and says what to do."""

import numpy as np
import numpy.typing as npt
import polars as pl

from atft.data.schema import DataError

MISSING_MARKERS = ("", "na", "n/a", "nan", "null", "none", "-", "#n/a")
FIRST_DAY, LAST_DAY = -62_091, 84_005  # since 1970: 1800-01-01 and 2199-12-31; other days are misread cells
DATE_FORMATS = (
    (r"^\d{4}-\d{2}-\d{2}($|[T ]\d{2}:\d{2})", "%Y-%m-%d", 10),
    (r"^\d{4}/\d{2}/\d{2}$", "%Y/%m/%d", 10),
    (r"^\d{8}(\.0)?$", "%Y%m%d", 8),
)
TRUE_MARKERS, FALSE_MARKERS = ("true", "t", "yes", "1", "1.0"), ("false", "f", "no", "0", "0.0")


def parse_dates(series: pl.Series, name: str) -> pl.Series:
    """The dates in a column of dates, timestamps, ISO text (or 2024/01/31, 20240131) or numbers like 20240131. Raises
    DataError naming rows.
    """
    if series.dtype == pl.Date:
        dates = series
    elif isinstance(series.dtype, pl.Datetime):
        dates = series.dt.date()
    else:
        text = series.cast(pl.String).str.strip_chars()
        # Match the pattern first: %Y accepts two digits and would read 31/12/24 as a day of the year 31.
        parsed = [
            pl.when(text.str.contains(pattern)).then(
                text.str.slice(0, width).str.to_date(date_format, strict=False, exact=True)
            )
            for pattern, date_format, width in DATE_FORMATS
        ]
        dates = pl.select(pl.coalesce(*parsed)).to_series()
    days = dates.cast(pl.Int32)
    if bad := row_numbers(days.is_null() | ~days.is_between(FIRST_DAY, LAST_DAY)):
        cell = days[bad[0] - 1]  # polars cannot format such a day
        raise DataError(
            f"{name}: column {series.name!r} is not a date in row {bad}, such as "
            f"{repr(series[bad[0] - 1]) if cell is None else f'day {cell} since 1970'}: write dates as 2024-01-31"
        )
    return dates


def parse_numbers(series: pl.Series, table: pl.DataFrame, name: str) -> pl.Series:
    """The column as Float64, missing values null. Raises DataError for text that is not a number and for infinity."""
    if series.dtype in (pl.String, pl.Categorical):
        values, failed = numbers_from_text(series)
        if failed.any():
            row = row_numbers(failed)[0] - 1
            raise DataError(
                f"{name}: column {series.name!r} is not a number in {failed.sum()} rows, such as "
                f"{format_rows(table, failed)}: {series[row]!r}"
            )
    elif series.dtype.is_numeric() or series.dtype == pl.Null:
        values = series.cast(pl.Float64)
    else:
        raise DataError(f"{name}: column {series.name!r} is of type {series.dtype}, not a number")
    infinite = values.is_infinite().fill_null(value=False)
    if infinite.any():
        raise DataError(
            f"{name}: column {series.name!r} is infinite in {format_rows(table, infinite)}: leave it empty instead"
        )
    return values.fill_nan(None)


def numbers_from_text(series: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The numbers in a text column, null where missing, and a mask of the cells that are neither."""
    series = series.cast(pl.String)
    values = series.cast(pl.Float64, strict=False)
    if not values.null_count() and values.is_finite().all():
        return values, values.is_null()
    text = series.str.strip_chars()
    missing = text.is_null() | text.str.to_lowercase().is_in(MISSING_MARKERS)
    values = text.cast(pl.Float64, strict=False)
    return values.set(missing, None), ~missing & values.is_null()


def parse_flags(series: pl.Series, table: pl.DataFrame, name: str) -> pl.Series:
    """The column as booleans. Raises DataError for cells that are neither true nor false."""
    text = series.cast(pl.String).str.to_lowercase()
    unknown = ~text.is_in([*TRUE_MARKERS, *FALSE_MARKERS]).fill_null(value=False)
    if unknown.any():
        raise DataError(f"{name}: column {series.name!r} must be true or false; see {format_rows(table, unknown)}")
    return text.is_in(TRUE_MARKERS)


def factorize(series: pl.Series) -> tuple[pl.Series, npt.NDArray[np.int64]]:
    """The distinct values of a column as sorted text, with null at the end, and the index of each cell's value."""
    categories = series if series.dtype == pl.Categorical else series.cast(pl.String).cast(pl.Categorical)
    distinct = categories.drop_nulls().unique()
    order = distinct.cast(pl.String).arg_sort().to_numpy()
    parse_numbers = distinct.to_physical().to_numpy()[order]
    position = np.zeros(int(parse_numbers.max(initial=0)) + 2, np.int64)
    position[parse_numbers] = np.arange(len(order))
    position[-1] = len(order)
    values = distinct.cast(pl.String)[order].extend_constant(None, 1)
    return values, position[categories.to_physical().fill_null(len(position) - 1).to_numpy()]


def group_argsort(group: npt.NDArray[np.integer], count: int) -> npt.NDArray[np.int64]:
    """Row numbers ordered by group (0 … count - 1), in a group by row: a stable argsort."""
    # NumPy uses radix sort for 16-bit numbers, several times faster.
    key = group.astype(np.int16) if count <= np.iinfo(np.int16).max else group
    return np.argsort(key, kind="stable").astype(np.int64, copy=False)


def row_numbers(mask: pl.Series, limit: int = 5) -> list[int]:
    """The first `limit` rows where `mask` is true, counted from 1 without a CSV's header."""
    return [int(i) + 1 for i in mask.arg_true().head(limit)]


def format_rows(table: pl.DataFrame, mask: pl.Series, column: str | None = None, limit: int = 5) -> str:
    """Date, code and `column` of the first rows where `mask` is true, for an error message."""
    wanted = [c for c in ("@date", "@code", column) if c is not None and c in table.columns]
    rows = table.filter(mask).select(wanted).head(limit).rows()
    return "; ".join(" ".join(str(x) for x in row) for row in rows)
