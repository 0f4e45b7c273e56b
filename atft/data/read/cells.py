"""Parses cells of a user's file: dates and numbers in text, codes; and names rows for messages."""

import re

import numpy as np
import numpy.typing as npt
import polars as pl

from atft.spec.data import TableFile

MISSING_MARKERS = ("", "na", "n/a", "nan", "null", "none", "-", "#n/a")
FIRST_DAY, LAST_DAY = -62_091, 84_005  # since 1970: 1800-01-01 and 2199-12-31; other days are misread cells
DATE_FORMATS = (
    (r"^\d{4}-\d{2}-\d{2}($|[T ]\d{2}:\d{2})", "%Y-%m-%d", 10),
    (r"^\d{4}/\d{2}/\d{2}$", "%Y/%m/%d", 10),
    (r"^\d{8}(\.0)?$", "%Y%m%d", 8),
)
CLOCK_TEXT = r"^(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}(?::\d{2})?)"
ZONE_TEXT = r"\d{2}:\d{2}(?::\d{2})?(?:[.,]\d+)? ?(Z|[+-]\d{2}:?\d{2}|[+-]\d{2}|UTC)$"
WHOLE_NUMBER = r"^\d+(\.0+)?$"
UNNAMED = re.compile(r"^(|Unnamed: \d+|__index_level_\d+__)$")  # what pandas writes for a row number without a name
INDEX_NAME = re.compile(
    rf"{UNNAMED.pattern}|^(index|level_\d+|Unnamed: \d+\.\d+)$"
)  # and the names that it gives to one
PLAIN = TableFile()
TRUE_MARKERS, FALSE_MARKERS = ("true", "t", "yes", "1", "1.0"), ("false", "f", "no", "0", "0.0")


def dates_from_text(text: pl.Series) -> pl.Series:
    """The dates in ISO text (or 2024/01/31, 20240131), null where there is none."""
    # Match the pattern first: %Y accepts two digits and would read 31/12/24 as a day of the year 31.
    parsed = [
        pl.when(text.str.contains(pattern)).then(
            text.str.slice(0, width).str.to_date(date_format, strict=False, exact=True)
        )
        for pattern, date_format, width in DATE_FORMATS
    ]
    return pl.select(pl.coalesce(*parsed)).to_series()


def clocks_in_text(text: pl.Series) -> list[tuple[str | None, pl.Series]]:
    """The distinct local times in ISO text that has a time of day, by the zone that is written with it."""
    timed = text.filter(text.str.contains(CLOCK_TEXT)).unique()
    if timed.is_empty():
        return []
    zones = timed.str.extract(ZONE_TEXT)
    clock = timed.str.slice(0, 16).str.replace("T", " ").str.to_datetime("%Y-%m-%d %H:%M", strict=False)
    parts = pl.DataFrame({"zone": zones, "clock": clock}).drop_nulls("clock").partition_by("zone", as_dict=True)
    return [(None if zone is None else str(zone), part["clock"].unique()) for (zone,), part in parts.items()]


def dates_by_format(text: pl.Series, date_format: str) -> tuple[pl.Series, pl.Series | None]:
    """The dates in text of this format, null where there is none, and the distinct instants if it has a time of day."""
    if "%H" not in date_format:
        return text.str.to_date(date_format, strict=False), None
    instants = text.str.to_datetime(date_format, strict=False)
    return instants.dt.date(), instants.drop_nulls().unique()


def numbers_from_text(series: pl.Series, file: TableFile = PLAIN) -> tuple[pl.Series, pl.Series]:
    """The numbers in a text column of `file`, null where missing, and a mask of the cells that are neither."""
    series = series.cast(pl.String)
    plain = file.decimal == "." and file.thousands is None
    values = series.cast(pl.Float64, strict=False) if plain else series
    if plain and not values.null_count() and values.is_finite().all():
        return values, values.is_null()
    text = series.str.strip_chars()
    missing = text.is_null() | text.str.to_lowercase().is_in(MISSING_MARKERS)
    values = (text if plain else _plain_numbers(text, file)).cast(pl.Float64, strict=False)
    return values.set(missing, None), ~missing & values.is_null()


def text_of(cells: pl.Series, file: TableFile) -> pl.Series:
    """Cells as the text in which `file` writes them: with other marks 12.345 would be read as 12345."""
    text = cells.cast(pl.String)
    return text.str.replace(".", file.decimal, literal=True) if cells.dtype.is_numeric() else text


def _plain_numbers(text: pl.Series, file: TableFile) -> pl.Series:
    """Numbers with the marks of `file` as Python writes them; null for other text, as 1.5 is where 1.234 is 1234."""
    decimal = re.escape(file.decimal)
    forms = [rf"(?:\d+(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][+-]?\d+)?"]
    if file.thousands is not None:
        mark = {" ": "[ \u00a0\u202f]", "'": "['\u2019]"}.get(file.thousands, re.escape(file.thousands))
        forms.append(rf"[1-9]\d{{0,2}}(?:{mark}\d{{2,3}})*{mark}\d{{3}}(?:{decimal}\d*)?")  # 12,34,567 in India
        bare = text.str.replace_all(mark, "")
    else:
        bare = text
    fits = text.str.contains(rf"^[+-]?(?:{'|'.join(forms)})$")
    return pl.select(pl.when(fits).then(bare.str.replace(file.decimal, ".", literal=True))).to_series()


def labels_of(series: pl.Series) -> tuple[pl.Series, bool]:
    """Codes or names as stripped text in categories. Of numbers with gaps, or their text, a whole one has no decimals:
    7203.0 is the code 7203, NaN is missing. Also whether decimals were left out.
    """
    cut = False
    if series.dtype.is_float() or series.dtype.is_decimal():
        known = series.fill_nan(None) if series.dtype.is_float() else series
        whole = known.cast(pl.Int64, strict=False)
        cut = bool(((whole.cast(known.dtype) == known) | known.is_null()).all())
        series = whole if cut else known
    values, index = factorize(series)
    values = values.str.strip_chars()
    named = values.drop_nulls()
    if named.str.ends_with("0").any() and named.filter(named != "").str.contains(WHOLE_NUMBER).all():
        plain = values.str.replace(r"\.0+$", "")
        values, cut = plain, cut or not plain.equals(values)
    return values.cast(pl.Categorical).gather(index), cut


def is_row_step(step: float) -> bool:
    """Whether row numbers may differ by this."""
    return abs(step) >= 1.0 and step.is_integer()


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
