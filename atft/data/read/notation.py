"""Advice for cells that are not read because dates or numbers are written in another way than the settings say."""

from itertools import product

import polars as pl

from atft.data.read.cells import numbers_from_text
from atft.spec.data import TableFile

MAX_CELLS = 1000  # that are looked at
DAY_MONTH_YEAR = r"^\s*(?P<first>\d{1,2})(?P<mark>[./-])(?P<second>\d{1,2})[./-](?P<year>\d{4}|\d{2})\s*$"
MONTHS = 12


def date_advice(bad: pl.Series, file: TableFile) -> str:
    """What to do about these cells of a date column of `file`: the format that they seem to have."""
    if file.date_format is not None:
        return f"date_format is {file.date_format!r}: correct it, or these cells"
    advice = "write dates as 2024-01-31"
    if bad.dtype not in (pl.String, pl.Categorical):
        return advice
    parts = bad.drop_nulls().head(MAX_CELLS).cast(pl.String).str.extract_groups(DAY_MONTH_YEAR).struct.unnest()
    parts = parts.drop_nulls()
    if parts.is_empty():
        return f"{advice}, or name their date_format, such as '%d %b %Y'"
    mark, year = parts["mark"][0], "%Y" if len(parts["year"][0]) > 2 else "%y"
    day_first, month_first = (f"'{mark.join((*order, year))}'" for order in (("%d", "%m"), ("%m", "%d")))
    known = {name: int(parts[name].cast(pl.Int32).max() or 0) > MONTHS for name in ("first", "second")}  # type: ignore[arg-type]
    either = f"{day_first} or {month_first}"
    found = either if known["first"] == known["second"] else day_first if known["first"] else month_first
    return f"{advice}, or name their format: date_format {found} (--date-format)"


def number_advice(bad: pl.Series) -> str:
    """What to do about these cells of a column of numbers: the marks that they seem to have."""
    text = bad.head(MAX_CELLS)
    found: list[str] = []
    for decimal, thousands in product(".,", (None, ",", ".", " ", "'", "_")):
        if thousands == decimal or (found and thousands is not None and found[-1].startswith(f"decimal '{decimal}'")):
            continue
        if not numbers_from_text(text, TableFile(decimal=decimal, thousands=thousands))[1].any():
            found.append(f"decimal '{decimal}'" + (f" and thousands {thousands!r}" if thousands is not None else ""))
    if not found:
        return "write plain numbers such as 1234.5"
    return f"write plain numbers such as 1234.5, or name their marks: {' or '.join(found)} (--decimal, --thousands)"
