"""One look at every column that may become a feature: how much is missing, its range, and whether it says the same of
all stocks of a day.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from atft.data.progress import Pace
from atft.data.read.cells import numbers_from_text, rows_of
from atft.data.read.tables import Table

MAX_NULL_SHARE = 0.99
TOLD_SHARE = 0.9  # of a day's rows, at least, that a market-wide column tells
ODD_SHARE = 0.01  # of days, at most, on which a nearly market-wide one has two values
COMPARED = 1 << 12  # rows compared at once: most columns are told apart by the first few days
GROUP = 64  # columns read at once


@dataclass(kw_only=True, slots=True)
class Survey:
    """What is known of one column. Infinite counts as missing; `low` and `high` are NaN without any value."""

    num_rows: int
    missing: int = 0
    infinite: bool = False
    low: float = float("nan")
    high: float = float("nan")
    total: float = 0.0
    daily: Float[np.ndarray, " day"] | None = None  # its value on each day, while next to no day has two; NaN unknown
    known: Int[np.ndarray, " day"] | None = None  # how many rows of each day have one, as long
    rows: Int[np.ndarray, " day"] | None = None  # how many rows each day has
    odd: set[int] = field(default_factory=set)  # days with two values
    repeated: bool = False  # some day has two values, equal ones

    @property
    def null_share(self) -> float:
        return self.missing / self.num_rows

    @property
    def mean(self) -> float | None:
        """None also where the sum is too large."""
        known = self.num_rows - self.missing
        return self.total / known if known and np.isfinite(self.total) else None

    @property
    def constant(self) -> bool:
        return self.low == self.high

    @property
    def market_wide(self) -> bool:
        """One value a day, told of its stocks: a z-score across stocks would erase it."""
        return self._same_of_all and not self.odd

    @property
    def nearly_market_wide(self) -> tuple[int, ...]:
        """The days that keep it from being so, when they are next to none."""
        return tuple(sorted(self.odd)) if self._same_of_all else ()

    @property
    def _same_of_all(self) -> bool:
        """A few stocks' events that agree, day by day, say nothing of the market."""
        if self.daily is None or self.known is None or self.rows is None or not self.repeated:
            return False
        told = self.known > 0
        return bool(self.known.sum() >= TOLD_SHARE * self.rows[told].sum())

    @property
    def useless(self) -> str | None:
        if self.null_share >= MAX_NULL_SHARE:
            return f"{self.null_share:.0%} empty"
        return "constant" if self.constant else None

    def add(self, values: Float[np.ndarray, " row"], day: Int[np.ndarray, " row"]) -> None:
        low, high = _range(values)
        if not (np.isfinite(low) and np.isfinite(high)):
            self.infinite |= bool(np.isinf(values).any())
            values = np.where(np.isfinite(values), values, np.asarray(np.nan, values.dtype))
            low, high = _range(values)
        total = _total(values)
        if np.isnan(total):
            missing = np.isnan(values)
            count = int(np.count_nonzero(missing))
            self.missing += count
            if count == len(values):
                return
            filled = values.copy()
            np.copyto(filled, 0.0, where=missing)
            total = _total(filled)
            if self.daily is not None:
                values, day = values[~missing], day[~missing]
        self.total += total
        self.low, self.high = float(np.fmin(self.low, low)), float(np.fmax(self.high, high))
        for at in range(0, len(values), COMPARED):
            if self.daily is None:
                break
            rows = slice(at, at + COMPARED)
            self._compare(self.daily, values[rows].astype(np.float64), day[rows])

    def _compare(
        self, daily: Float[np.ndarray, " day"], values: Float[np.ndarray, " row"], day: Int[np.ndarray, " row"]
    ) -> None:
        before = daily[day]
        daily[day] = values
        differ = ((before != values) & ~np.isnan(before)) | (daily[day] != values)
        if differ.any():
            self.odd.update(np.flatnonzero(np.bincount(day[differ])).tolist())  # faster than np.unique
            if len(self.odd) > max(1.0, ODD_SHARE * len(daily)):
                self.daily, self.odd = None, set()
                return
        if self.known is not None:
            self.known += np.bincount(day, minlength=len(daily))
        if not self.repeated:
            self.repeated = bool(np.isfinite(before).any()) or len(np.unique(day)) < len(day)


def _range(values: Float[np.ndarray, " row"]) -> tuple[float, float]:
    return float(np.fmin.reduce(values)) + 0.0, float(np.fmax.reduce(values)) + 0.0  # pass over NaN; -0 is 0


def _total(values: Float[np.ndarray, " row"]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):  # numbers at the end of the range
        return float(values.sum(dtype=np.float64))


def survey(
    table: Table, columns: Sequence[str], day: Int[np.ndarray, " row"], num_days: int, pace: Pace
) -> tuple[dict[str, Survey], dict[str, list[int]]]:
    """Each of `columns` that holds numbers, and the first rows of those that are text. `day`: each row's, by number."""
    rows = np.bincount(day, minlength=num_days)
    found = {
        c: Survey(
            num_rows=table.num_rows, daily=np.full(num_days, np.nan), known=np.zeros(num_days, np.int64), rows=rows
        )
        for c in columns
    }
    text: dict[str, list[int]] = {}
    threads = pl.thread_pool_size()

    def look(batch: pa.RecordBatch, part: Sequence[str], start: int) -> None:
        for column in part:
            if column not in text:
                values = _numbers(batch.column(column), column, start, text)
                if values is not None:
                    found[column].add(values, day[start : start + batch.num_rows])

    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(columns), GROUP):
            part = columns[first : first + GROUP]
            start = 0
            waiting: list[Future[None]] = []
            for batch in table.batches(part):
                pace.wait_all(waiting)  # the next batch has been read meanwhile
                waiting = [pool.submit(look, batch, part[k::threads], start) for k in range(threads)]
                start += batch.num_rows
                pace.at((first + len(part) * start / table.num_rows) / len(columns))
            pace.wait_all(waiting)
    return {c: about for c, about in found.items() if c not in text}, text


def _numbers(cells: pa.Array, column: str, start: int, text: dict[str, list[int]]) -> npt.NDArray[np.floating] | None:
    if is_text(cells.type):
        failed = numbers_from_text(pl.Series(cells))[1]
        if failed.any():
            text[column] = [start + row for row in rows_of(failed)]
            return None
    return floats(cells)


@cache
def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def may_be_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(is_text(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)) or bool(
        types.is_boolean(kind)
    )


@cache
def float_type(kind: pa.DataType) -> type[np.float32] | type[np.float64]:
    """float32 where it holds every value of `kind`."""
    narrow = (pa.float16(), pa.float32(), pa.int8(), pa.int16(), pa.uint8(), pa.uint16(), pa.bool_())
    return np.float32 if kind in narrow else np.float64


def floats(cells: pa.Array) -> npt.NDArray[np.floating]:
    """Numbers of any type as float32 or float64, NaN where there is none; text as the numbers that it says."""
    if is_text(cells.type):
        return numbers_from_text(pl.Series(cells))[0].fill_null(float("nan")).to_numpy()
    wanted = float_type(cells.type)
    if not pa.types.is_floating(cells.type):
        cells = pc.cast(cells, pa.from_numpy_dtype(wanted), safe=False)
    if cells.null_count:
        cells = pc.fill_null(cells, float("nan"))
    # pyarrow's own to_numpy imports pandas, which takes longer than to read a column
    stored = np.dtype(f"f{cells.type.bit_width // 8}")
    start = cells.offset * stored.itemsize
    values: npt.NDArray[np.floating] = np.frombuffer(cells.buffers()[1], stored, len(cells), start)
    return values.astype(wanted, copy=False)
