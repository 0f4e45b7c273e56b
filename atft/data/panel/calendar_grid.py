"""The calendar grid: inside its listed span a stock has a row on every trading day, so that W consecutive rows are
exactly W trading days.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from atft.data.panel.source import Source
from atft.data.read.cells import factorize, group_argsort
from atft.data.schema import PRICES, Days


@dataclass(frozen=True, kw_only=True, slots=True)
class CalendarGrid:
    """R rows sorted by (code, day). A halted day repeats the last close, with volume 0 and `valid` false.

    `frame` has code and day (numbers), valid and, for prices, those of close, open, high, low, volume that the source
    has.
    """

    days: Days  # [T]
    codes: tuple[str, ...]
    sectors: tuple[str, ...]
    day_index: npt.NDArray[np.int32]  # [R]
    code_index: npt.NDArray[np.int32]  # [R]
    sector_index: npt.NDArray[np.int32]  # [R]
    valid: npt.NDArray[np.bool_]  # [R]
    in_universe: npt.NDArray[np.bool_]  # [R]
    returns: npt.NDArray[np.float64]  # [R], NaN unknown
    day_offsets: npt.NDArray[np.int64]  # [T+1]
    day_rows: npt.NDArray[np.int64]  # [R]
    row_of_source: npt.NDArray[np.int64]  # grid row of each source row, -1 outside of every listed span
    frame: pl.DataFrame
    warnings: tuple[str, ...] = ()

    def scatter(self, series: pl.Series) -> npt.NDArray[np.float64]:
        """A column of the source on the grid, [R]; NaN where the source has no value."""
        return scatter(series, self.row_of_source, len(self.day_index))

    def day_values(self, source: Source, name: str) -> npt.NDArray[np.float64]:
        """The daily values, [T], of a market-wide column of the source."""
        daily = source.extra[name].daily
        assert daily is not None  # noqa: S101 - callers pass market-wide columns only
        return daily[np.searchsorted(source.days, self.days)]


def scatter(series: pl.Series, row_of_source: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.float64]:
    """Values of source rows written to their grid rows, [rows]; NaN elsewhere."""
    out = np.full(rows, np.nan)
    inside = row_of_source >= 0
    out[row_of_source[inside]] = series.cast(pl.Float64).fill_null(float("nan")).to_numpy()[inside]
    return out


def build_grid(source: Source) -> CalendarGrid:
    """The calendar grid of a source, with halts filled. A price row without a close counts as a halt; codes without any
    close are left out.
    """
    frame = source.frame
    present = frame["@close"].is_not_null().to_numpy() if source.has("close") else np.ones(frame.height, np.bool_)
    day, on_calendar, used_days = _renumber(source.day_numbers(), present)
    days = source.days[used_days]
    run = frame["@code"].rle_id().to_numpy().astype(np.int64)
    code, _, used_codes = _renumber(run, present)
    first_rows = np.flatnonzero(np.diff(run, prepend=-1))[used_codes]
    codes = tuple(frame["@code"].gather(first_rows).to_list())
    present_rows = np.flatnonzero(present)
    starts = np.flatnonzero(np.diff(code[present_rows], prepend=-1))  # every code has a row, and its rows are in order
    first, last = day[present_rows[starts]], day[present_rows[np.append(starts[1:], len(present_rows)) - 1]]
    offsets = np.concatenate([[0], np.cumsum(last - first + 1)])
    inside = on_calendar & (code >= 0)
    inside[inside] &= (day[inside] >= first[code[inside]]) & (day[inside] <= last[code[inside]])
    row_of_source = np.where(inside, offsets[code] + day - first[code], -1).astype(np.int64)
    rows = int(offsets[-1])
    code_index = np.repeat(np.arange(len(codes), dtype=np.int32), last - first + 1)
    day_index = (np.arange(rows) - offsets[code_index] + first[code_index]).astype(np.int32)
    valid = np.zeros(rows, np.bool_)
    valid[row_of_source[present]] = True
    last_valid_row = np.maximum.accumulate(np.where(valid, np.arange(rows), 0))  # the first row of each span is valid
    sectors, sector_index = _sectors(source, row_of_source, last_valid_row, rows)
    table = pl.DataFrame({"code": pl.Series(code_index).set_sorted(), "day": day_index, "valid": valid})
    if source.has("close"):
        table = _with_prices(source, table, row_of_source, last_valid_row, valid)
    day_offsets, day_rows = rows_by_day(day_index, len(days))
    in_universe, warnings = _universe_membership(
        source, days, codes, day_index, code_index, row_of_source, last_valid_row
    )
    return CalendarGrid(
        days=days,
        codes=codes,
        sectors=sectors,
        day_index=day_index,
        code_index=code_index,
        sector_index=sector_index,
        valid=valid,
        in_universe=in_universe,
        returns=_returns(source, table, row_of_source, offsets),
        day_offsets=day_offsets,
        day_rows=day_rows,
        row_of_source=row_of_source,
        frame=table,
        warnings=warnings,
    )


def _renumber(
    group: npt.NDArray[np.int64], present: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Renumber densely the groups (0, 1, …) that have a present row. Returns each row's new number (-1: dropped),
    whether it has one, and the old numbers of the kept groups.
    """
    kept = np.bincount(group[present], minlength=int(group.max()) + 1) > 0
    number = np.where(kept, np.cumsum(kept) - 1, -1)[group]
    return number, number >= 0, np.flatnonzero(kept)


def rows_by_day(day_index: npt.NDArray[np.int32], num_days: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Offsets of the days, [T+1], into the row numbers ordered by day, [R]; both are returned."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(day_index, minlength=num_days))]).astype(np.int64)
    return offsets, group_argsort(day_index, num_days)


def _with_prices(
    source: Source,
    table: pl.DataFrame,
    row_of_source: npt.NDArray[np.int64],
    last_valid_row: npt.NDArray[np.int64],
    valid: npt.NDArray[np.bool_],
) -> pl.DataFrame:
    rows = table.height
    close = scatter(source.frame["@close"], row_of_source, rows)[last_valid_row]
    filled = {"close": close}
    for role in PRICES[:-1]:
        if source.has(role):
            filled[role] = np.where(valid, scatter(source.frame[f"@{role}"], row_of_source, rows), close)
    if source.has("volume"):
        filled["volume"] = np.where(valid, scatter(source.frame["@volume"], row_of_source, rows), 0.0)
    return table.with_columns(pl.Series(name, values).fill_nan(None) for name, values in filled.items())


def _sectors(
    source: Source, row_of_source: npt.NDArray[np.int64], last_valid_row: npt.NDArray[np.int64], rows: int
) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
    if not source.has("sector"):
        return (), np.full(rows, -1, np.int32)
    values, number = factorize(source.frame["@sector"])
    names = tuple(values.drop_nulls().to_list())
    if not names:
        return (), np.full(rows, -1, np.int32)
    index = np.full(rows, -1, np.int32)
    index[row_of_source[row_of_source >= 0]] = np.where(number < len(names), number, -1)[row_of_source >= 0]
    return names, index[last_valid_row]


def _returns(
    source: Source, table: pl.DataFrame, row_of_source: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Daily returns close(t-1) → close(t), NaN on a span's first day. Without closes: the column return_1d, else the
    1-day target of two days before.
    """
    rows = table.height
    if source.has("close"):
        return table.select(
            (pl.col("close") / pl.col("close").shift(1) - 1).over("code").fill_null(float("nan")).alias("r")
        )["r"].to_numpy()
    if source.has("return_1d"):
        return scatter(source.frame["@return_1d"], row_of_source, rows)
    out = np.full(rows, np.nan)
    if source.has("target_1d"):
        out[2:] = scatter(source.frame["@target_1d"], row_of_source, rows)[:-2]
        starts = offsets[:-1]
        out[starts] = out[np.minimum(starts + 1, offsets[1:] - 1)] = np.nan  # a span's first two days
    return out


def _universe_membership(
    source: Source,
    days: Days,
    codes: tuple[str, ...],
    day_index: npt.NDArray[np.int32],
    code_index: npt.NDArray[np.int32],
    row_of_source: npt.NDArray[np.int64],
    last_valid_row: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.bool_], tuple[str, ...]]:
    """Point-in-time membership of each row, and warnings: a yearly list holds in its year, a dated one from its date to
    the next. The warnings are not added to the source's here: another thread adds to those meanwhile.
    """
    if source.universe is None:
        if not source.has("in_universe"):
            return np.ones(len(day_index), np.bool_), ()
        flags: npt.NDArray[np.bool_] = scatter(source.frame["@in_universe"], row_of_source, len(day_index)) == 1.0
        return flags[last_valid_row], ()
    universe, warnings = source.universe, list[str]()
    dated = "date" in universe.columns
    column = (
        universe["date"].to_numpy().astype("datetime64[D]")
        if dated
        else (universe["year"].to_numpy() - 1970).astype("datetime64[Y]")
    )
    lists = np.unique(column)
    numbers = (
        universe["code"].replace_strict(codes, np.arange(len(codes)), default=-1, return_dtype=pl.Int32).to_numpy()
    )
    unknown = universe["code"].filter(pl.Series(numbers < 0)).unique()
    if len(unknown):
        warnings.append(
            f"{len(unknown)} codes of the universe file are not in the panel, such as {unknown.sort()[0]!r}"
        )
    member = np.zeros((len(lists) + 1, len(codes)), np.bool_)  # the last row: no list yet
    member[np.searchsorted(lists, column)[numbers >= 0], numbers[numbers >= 0]] = True
    if dated:
        which = np.searchsorted(lists, days, side="right") - 1
    else:
        years = days.astype("datetime64[Y]")
        at = np.minimum(np.searchsorted(lists, years), len(lists) - 1)
        which = np.where(lists[at] == years, at, -1)
    outside = int((which < 0).sum())
    if outside:
        warnings.append(f"{outside} trading days have no list in the universe file: nothing is ranked on them")
    found: npt.NDArray[np.bool_] = member[which[day_index], code_index]
    return found, tuple(warnings)
