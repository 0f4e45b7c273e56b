"""One pass over every column that may become a feature: its missing share and range, and whether it is market-wide (the
same for all stocks of a day).
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

from atft.data.progress import ProgressReporter
from atft.data.read.cells import PLAIN, is_row_step, numbers_from_text, row_numbers
from atft.data.read.tables import Table
from atft.data.read.types import is_text
from atft.spec.data import TableFile

ROW_NUMBER = "a row number"
MAX_NULL_SHARE = 0.99
MIN_KNOWN_SHARE = 0.9  # of rows on days with a value: a market-wide column has at least this share
MAX_INCONSISTENT_SHARE = 0.01  # of days, at most, on which a nearly market-wide column has two values
COMPARED_ROWS = 1 << 12  # rows compared at once: the first few days rule most columns out
COLUMN_GROUP = 64  # columns read at once


@dataclass(kw_only=True, slots=True)
class ColumnSurvey:
    """Statistics of one column. Infinity counts as missing; `low` and `high` are NaN without any value."""

    num_rows: int
    missing: int = 0
    infinite: bool = False
    low: float = float("nan")
    high: float = float("nan")
    total: float = 0.0
    daily: Float[np.ndarray, " day"] | None = (
        None  # its value on each day, NaN unknown; None once it is not market-wide
    )
    known: Int[np.ndarray, " day"] | None = None  # rows of each day with a value; None once it is not market-wide
    rows: Int[np.ndarray, " day"] | None = None  # rows of each day
    inconsistent_days: set[int] = field(default_factory=set)  # days with two values
    several_rows_agree: bool = False  # some day has more than one value, equal ones
    counting: bool = True  # each value so far is the one before plus the same whole step
    step: float | None = None
    previous: float | None = None
    named_row_number: bool = False

    @property
    def null_share(self) -> float:
        return self.missing / self.num_rows

    @property
    def mean(self) -> float | None:
        """None without values, or if the sum overflows."""
        known = self.num_rows - self.missing
        return self.total / known if known and np.isfinite(self.total) else None

    @property
    def constant(self) -> bool:
        return self.low == self.high

    @property
    def market_wide(self) -> bool:
        """Whether the column has one value per day for all stocks, which a z-score across stocks would erase."""
        return self._same_for_all_stocks and not self.inconsistent_days

    @property
    def nearly_market_wide(self) -> tuple[int, ...]:
        """The few days on which an otherwise market-wide column differs; empty if there are none, or many."""
        return tuple(sorted(self.inconsistent_days)) if self._same_for_all_stocks else ()

    @property
    def _same_for_all_stocks(self) -> bool:
        """Whether nearly all rows of the days with a value have it: events of a few stocks are not market-wide."""
        if self.daily is None or self.known is None or self.rows is None or not self.several_rows_agree:
            return False
        any_known = self.known > 0
        return bool(self.known.sum() >= MIN_KNOWN_SHARE * self.rows[any_known].sum())

    @property
    def useless_reason(self) -> str | None:
        """Why the column cannot be a feature: nearly empty, constant, or a row number; else None."""
        if self.null_share >= MAX_NULL_SHARE:
            return f"{self.null_share:.0%} empty"
        return "constant" if self.constant else ROW_NUMBER if self.is_row_number else None

    @property
    def is_row_number(self) -> bool:
        """Whether the column changes by one whole step from row to row of the file, or has a row number's name."""
        return self.named_row_number or (self.counting and self.step is not None)

    def add_batch(self, values: Float[np.ndarray, " row"], day: Int[np.ndarray, " row"]) -> None:
        """Add rows with their values and day numbers."""
        if self.counting:
            self._count(values)
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
        for at in range(0, len(values), COMPARED_ROWS):
            if self.daily is None:
                break
            rows = slice(at, at + COMPARED_ROWS)
            self._compare(self.daily, values[rows].astype(np.float64), day[rows])

    def _count(self, values: Float[np.ndarray, " row"]) -> None:
        """Compare the steps from row to row with the first one; most columns are done after three values."""
        start = [] if self.previous is None else [self.previous]
        for part in (values[:3], values):
            with np.errstate(over="ignore", invalid="ignore"):  # numbers near the end of the range
                steps = np.diff(np.concatenate([start, part.astype(np.float64)]))
            if self.step is None and len(steps):
                self.step = float(steps[0])
            if self.step is not None and not (is_row_step(self.step) and bool((steps == self.step).all())):
                self.counting = False
                return
        self.previous = float(values[-1])

    def _compare(
        self, daily: Float[np.ndarray, " day"], values: Float[np.ndarray, " row"], day: Int[np.ndarray, " row"]
    ) -> None:
        before = daily[day]
        daily[day] = values
        differ = ((before != values) & ~np.isnan(before)) | (daily[day] != values)
        if differ.any():
            self.inconsistent_days.update(np.flatnonzero(np.bincount(day[differ])).tolist())  # faster than np.unique
            if len(self.inconsistent_days) > max(1.0, MAX_INCONSISTENT_SHARE * len(daily)):
                self.daily, self.inconsistent_days = None, set()
                return
        if self.known is not None:
            self.known += np.bincount(day, minlength=len(daily))
        if not self.several_rows_agree:
            self.several_rows_agree = bool(np.isfinite(before).any()) or len(np.unique(day)) < len(day)


def _range(values: Float[np.ndarray, " row"]) -> tuple[float, float]:
    return float(np.fmin.reduce(values)) + 0.0, float(np.fmax.reduce(values)) + 0.0  # ignore NaN; -0 is 0


def _total(values: Float[np.ndarray, " row"]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):  # numbers near the end of the range
        return float(values.sum(dtype=np.float64))


def survey(
    table: Table, columns: Sequence[str], day: Int[np.ndarray, " row"], num_days: int, progress: ProgressReporter
) -> tuple[dict[str, ColumnSurvey], dict[str, list[int]]]:
    """Statistics of each numeric column, and the first text rows of the others. `day`: the day number of each row."""
    rows = np.bincount(day, minlength=num_days)
    found = {
        c: ColumnSurvey(
            num_rows=table.num_rows, daily=np.full(num_days, np.nan), known=np.zeros(num_days, np.int64), rows=rows
        )
        for c in columns
    }
    text: dict[str, list[int]] = {}
    threads = pl.thread_pool_size()

    def survey_batch(batch: pa.RecordBatch, part: Sequence[str], start: int) -> None:
        for column in part:
            if column not in text:
                values = _numbers(batch.column(column), table.written, column, start, text)
                if values is not None:
                    found[column].add_batch(values, day[start : start + batch.num_rows])

    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(columns), COLUMN_GROUP):
            part = columns[first : first + COLUMN_GROUP]
            start = 0
            waiting: list[Future[None]] = []
            for batch in table.batches(part):
                progress.wait_all(waiting)  # while they ran, the next batch was read
                waiting = [pool.submit(survey_batch, batch, part[k::threads], start) for k in range(threads)]
                start += batch.num_rows
                progress.update((first + len(part) * start / table.num_rows) / len(columns))
            progress.wait_all(waiting)
    return {c: found[c] for c in found if c not in text}, text


def _numbers(
    cells: pa.Array, written: TableFile, column: str, start: int, text: dict[str, list[int]]
) -> npt.NDArray[np.floating] | None:
    if is_text(cells.type):
        failed = numbers_from_text(pl.Series(cells), written)[1]
        if failed.any():
            text[column] = [start + row for row in row_numbers(failed)]
            return None
    return to_floats(cells, written)


def may_be_number(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold numbers, as such, as booleans or as text."""
    types = pa.types
    return bool(is_text(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)) or bool(
        types.is_boolean(kind)
    )


@cache
def float_type(kind: pa.DataType) -> type[np.float32] | type[np.float64]:
    """float32 where it holds every value of `kind`."""
    narrow = (pa.float16(), pa.float32(), pa.int8(), pa.int16(), pa.uint8(), pa.uint16(), pa.bool_())
    return np.float32 if kind in narrow else np.float64


def to_floats(cells: pa.Array, written: TableFile = PLAIN) -> npt.NDArray[np.floating]:
    """Numbers of any type, or in text with the marks of `written`, as float32 or float64 with NaN for missing."""
    if is_text(cells.type):
        return numbers_from_text(pl.Series(cells), written)[0].fill_null(float("nan")).to_numpy()
    wanted = float_type(cells.type)
    if not pa.types.is_floating(cells.type):
        cells = pc.cast(cells, pa.from_numpy_dtype(wanted), safe=False)
    if cells.null_count:
        cells = pc.fill_null(cells, float("nan"))
    # pyarrow's to_numpy imports pandas, which takes longer than reading a column
    stored = np.dtype(f"f{cells.type.bit_width // 8}")
    start = cells.offset * stored.itemsize
    values: npt.NDArray[np.floating] = np.frombuffer(cells.buffers()[1], stored, len(cells), start)
    return values.astype(wanted, copy=False)
