"""Tables with one row a day and a column for each stock, or for each stock and price, as download libraries write them:
their layout, found by the columns' names, and the same cells as rows of date, code and values.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from atft.data.read.cells import INDEX_NAME, UNNAMED, numbers_from_text, text_of
from atft.data.read.tables import Table, table_from_frame
from atft.data.schema import ALIASES, PRICES, TARGET_COLUMN, DataError, format_names, normalized_name
from atft.spec.data import TableFile

FIELDS: Final = frozenset(alias for role in (*PRICES, "volume") for alias in ALIASES[role])
PERIODS: Final = frozenset({"year", "month", "quarter", "week"})  # by which a folder is split
DECIMAL: Final = re.compile(r"^-?\d*[.,]\d+$")
MAX_GRID = 1.5  # times as many columns would be there if every stock had every field
TICKERS: Final = frozenset({"LOW", "OPEN"})  # that are names of fields too
MARKS: Final = "_ .-|/:"
WORD: Final = re.compile(r"[^\W_]+")
VALUE_WORDS: Final = re.compile(  # of values other than a stock's close
    "adj|adjusted|amount|ask|bid|change|close|closing|dividends?|last|prices?|prev|previous|raw|returns?|splits?"
    "|turnover|unadj|unadjusted|vol|volume|vwap",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WideLayout:
    """The column of the dates, and the (field, code) of each other column that is read."""

    date: str
    columns: dict[str, tuple[str, str]]

    def describe(self, file: str) -> str:
        """How the file is read, for the warnings of a plan and a build."""
        fields = list(dict.fromkeys(field for field, _ in self.columns.values()))
        codes = list(dict.fromkeys(code for _, code in self.columns.values()))
        return (
            f"{file} is read as a wide table, one row a day: {format_names(fields)} of {len(codes):,} codes "
            f"{format_names(codes, 3)}, dates from {self.date!r}"
        )


def find_layout(names: Sequence[str], mapped: Mapping[str, object]) -> WideLayout | None:
    """The layout of a table with these columns; None for one that has a row for each day and code. `mapped`: columns
    whose role the user has named, by role.
    """
    pairs = {name: pair for name in names if (pair := _pair(name)) is not None}
    if pairs:
        return _two_levels(names, pairs, mapped)
    return None if mapped.keys() - {"date", "sector"} else _closes(names, mapped)


def _two_levels(
    names: Sequence[str], pairs: Mapping[str, tuple[str, str]], mapped: Mapping[str, object]
) -> WideLayout | None:
    dated = [n for n, pair in pairs.items() if normalized_name("".join(pair)) in ALIASES["date"]]  # ('Date', '')
    date = mapped.get("date") or next(iter([*dated, *_date_columns(names)]), None)
    levels = [[pair[k] for name, pair in pairs.items() if name != date] for k in range(2)]
    level = _field_level(*levels)
    if not isinstance(date, str) or date not in names or level is None:
        return None
    columns = {name: (pair[level], pair[1 - level]) for name, pair in pairs.items() if name != date and all(pair)}
    return WideLayout(date=date, columns=columns)


def _closes(names: Sequence[str], mapped: Mapping[str, object]) -> WideLayout | None:
    date = mapped.get("date") or next(iter(_date_columns(names)), None)
    others = [n for n in names if n != date and not INDEX_NAME.match(n) and normalized_name(n) not in PERIODS]
    normal = [normalized_name(n) for n in others]
    long = {*ALIASES["code"], *ALIASES["close"]} & {*normal} or any(TARGET_COLUMN.match(n) for n in others)
    if long or not isinstance(date, str) or date not in names or len(others) < 2:
        return None
    if any(n in FIELDS and name not in TICKERS for n, name in zip(normal, others, strict=True)):
        return None  # of one stock, or prices of several beside another value
    columns = _split_names(others)
    if columns is None and not any(map(_is_like_field, others)):
        columns = {n: ("close", n) for n in others}
    return None if columns is None else WideLayout(date=date, columns=columns)


def _is_like_field(name: str) -> bool:
    """Whether a column's whole name is another value than the close of a stock of that name."""
    return any(map(VALUE_WORDS.fullmatch, WORD.findall(name))) or normalized_name(name) in {
        *ALIASES["sector"],
        *ALIASES["in_universe"],
    }


def _split_names(names: Sequence[str]) -> dict[str, tuple[str, str]] | None:
    """The (field, code) in names such as Close_AAPL or "AAPL Adj Close", if all are of one such form."""
    for field_first in (True, False):
        splits = {name: _splits(name, field_first=field_first) for name in names}
        known = {}
        for name, pairs in splits.items():
            fields = [pair for pair in pairs if normalized_name(pair[0]) in FIELDS]
            field, code = max(fields, key=lambda pair: len(pair[0]), default=("", ""))
            words = WORD.findall(code)
            if words and not VALUE_WORDS.fullmatch(words[0 if field_first else -1]):  # else the field's name is longer
                known[name] = field, code
        codes = {code for _, code in known.values()}
        if not {normalized_name(field) for field, _ in known.values()} & {*ALIASES["close"]}:
            continue
        for name in names:  # other fields of the same stocks
            of_code = [pair for pair in splits[name] if pair[1] in codes]
            if name not in known and of_code:
                known[name] = max(of_code, key=lambda pair: len(pair[1]))
        if len(known) == len(names):
            return {name: known[name] for name in names}
    return None


def _splits(name: str, *, field_first: bool) -> list[tuple[str, str]]:
    """Every (field, code) that a name could be made of."""
    parts = [(name[:k].strip(MARKS), name[k + 1 :].strip(MARKS)) for k, mark in enumerate(name) if mark in MARKS]
    return [pair if field_first else (pair[1], pair[0]) for pair in parts if all(pair)]


def _pair(name: str) -> tuple[str, str] | None:
    """The two levels in a name such as "('Close', 'AAPL')", which pandas writes for columns of two levels."""
    if not name.startswith("("):
        return None
    try:
        value = ast.literal_eval(name)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return (str(value[0]), str(value[1])) if isinstance(value, tuple) and len(value) == 2 else None


def _date_columns(names: Sequence[str]) -> list[str]:
    """The names of a date, best first; else those of an index without a name."""
    normal = {name: normalized_name(name) for name in names}
    named = [name for alias in ALIASES["date"] for name in names if normal[name] == alias]
    return named or [name for name in names if UNNAMED.match(name)][:1]


def _field_level(first: Sequence[str], second: Sequence[str]) -> int | None:
    """Which of two levels names prices, at least half of whose names do, with a close; None if neither does."""
    shares = []
    for level in (first, second):
        names = {normalized_name(value) for value in level if value}
        shares.append(len(names & FIELDS) / len(names) if names & {*ALIASES["close"]} else 0.0)
    best = int(shares[1] > shares[0])
    return best if shares[best] >= 0.5 else None


def two_level_header(lines: Sequence[Sequence[str]]) -> tuple[list[str], int] | None:
    """The names of a text file's columns, as pandas names columns of two levels, and the number of its header lines;
    None for a file with one. `lines`: its first three lines as cells.
    """
    if len(lines) < 2 or len(lines[0]) != len(lines[1]) or len(lines[0]) < 3 or lines[1][0][:1].isdigit():
        return None
    first, second = _filled_forward(lines[0][1:]), lines[1][1:]
    pairs = list(zip(first, second, strict=True))
    if _field_level(first, second) is None or len(set(pairs)) < len(pairs) or not all(map(all, pairs)):
        return None
    if len(set(first)) * len(set(second)) > MAX_GRID * len(pairs) or any(map(DECIMAL.match, (*first, *second))):
        return None  # the second line is a row of data: its cells do not repeat
    if any(normalized_name(cell) in ALIASES["date"] for pair in pairs for cell in pair):
        return None  # rows of code, date and close
    third = (lines[2] if len(lines) > 2 else []) or [""]
    named = bool(third[0]) and not third[0][:1].isdigit() and not any(third[1:])
    date = third[0] if named else next((n for n in (lines[1][0], lines[0][0]) if _date_columns([n])), "") or "date"
    return [date, *(str(pair) for pair in pairs)], 3 if named else 2


def _filled_forward(cells: Sequence[str]) -> list[str]:
    """A header line whose name stands over its first column only, as in a merged cell, with the name in each."""
    filled: list[str] = []
    for cell in cells:
        filled.append(cell or (filled[-1] if filled else ""))
    return filled


def long_table(wide: Table, layout: WideLayout) -> Table | None:
    """The cells of a wide table as a table of date, code and one column for each field, without rows of nothing else
    than missing values; None for columns of one level whose dates repeat: another table. Raises DataError.
    """
    fields = list(dict.fromkeys(field for field, _ in layout.columns.values()))
    if {layout.date, "date", "code"} & {*fields}:
        raise DataError(f"{wide.name}: a field of the wide table has the name of the date or code: rename it")
    date = "date" if UNNAMED.match(layout.date) else layout.date
    frame = wide.frame([layout.date, *layout.columns])
    if not any(map(_pair, layout.columns)) and frame[layout.date].drop_nulls().is_duplicated().any():
        return None
    cells = {name: _numbers(frame[name], wide.written) for name in layout.columns}
    is_text = dict.fromkeys(fields, False)
    for name, (field, _) in layout.columns.items():
        is_text[field] |= cells[name].dtype == pl.String
    by_code: dict[str, dict[str, pl.Series]] = {}
    for name, (field, code) in layout.columns.items():
        own = by_code.setdefault(code, {})
        if field in own:
            raise DataError(f"{wide.name} has more than one column of {field!r} for {code!r}: leave out all but one")
        own[field] = text_of(frame[name], wide.written) if is_text[field] else cells[name].cast(pl.Float64)
    empty = {
        field: pl.repeat(None, frame.height, dtype=pl.String if is_text[field] else pl.Float64, eager=True)
        for field in fields
    }
    parts = [
        pl.DataFrame(
            {
                date: frame[layout.date],
                "code": pl.repeat(code, frame.height, dtype=pl.String, eager=True),
                **{field: own.get(field, empty[field]) for field in fields},
            }
        ).filter(pl.any_horizontal(pl.col(*fields).is_not_null()))
        for code, own in by_code.items()
    ]
    table = pl.concat(parts)
    if table.is_empty():
        raise DataError(f"{wide.name}: no column of the wide table holds a number")
    return replace(table_from_frame(table, wide.name), written=wide.written)


def _numbers(cells: pl.Series, written: TableFile) -> pl.Series:
    """A column of text that holds numbers as such, with NaN as missing; other cells are judged with the panel's."""
    if cells.dtype in (pl.String, pl.Categorical):
        values, failed = numbers_from_text(cells, written)
        return cells.cast(pl.String) if failed.any() else values.fill_nan(None)
    if cells.dtype == pl.Null or cells.dtype.is_numeric():
        return cells.cast(pl.Float64).fill_nan(None)
    return cells.cast(pl.String)
