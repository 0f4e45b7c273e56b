"""Fills the feature matrix of a cache: raw columns, a few at a time, are put in day order, normalised across each day,
and written into the mapped file, many columns in one pass over its rows.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from jaxtyping import Float, Float32, Int

from atft.data import features
from atft.data.crosssection import CrossSection
from atft.data.formulas import Feature
from atft.data.grid import Grid
from atft.data.pace import Pace
from atft.data.source import Source
from atft.data.survey import float_type, floats
from atft.data.tables import Table

POLARS_COLUMNS = 16  # that it needs for one feature
MIN_PASSES = 4  # over the matrix; one would be no faster, and would touch four times the memory
READY_BYTES = 1 << 30  # at most, of normalised columns that wait to be written
RAW_BYTES = 3 << 27  # of columns as they are read, and of features as they are computed
TILE_ROWS, TILE_COLUMNS = 1 << 14, 16  # written at once: a tile stays in a core's cache, its rows are whole lines of it
TILES = 8  # written by one task

Column = npt.NDArray[np.floating]


class Assembly:
    """Collects normalised columns, in order and in day order, and writes them into `matrix`, [row, feature]."""

    def __init__(self, grid: Grid, matrix: Float[np.ndarray, "row feature"], pace: Pace) -> None:
        self._matrix, self._grid, self._pace = matrix, grid, pace
        self.num_rows, self._width = matrix.shape
        passes = min(self._width, max(MIN_PASSES, -(-self._width * 4 * self.num_rows // READY_BYTES)))
        # One cell more than there are rows: what belongs nowhere goes there.
        self._ready = np.empty((-(-self._width // passes), self.num_rows + 1), np.float32)
        self._place = np.empty(self.num_rows, np.int64)
        self._place[grid.day_rows] = np.arange(self.num_rows)
        self._section = CrossSection(grid.day_offsets, grid.valid[grid.day_rows])
        self._written = self._filled = 0
        self._threads = pl.thread_pool_size()
        self._pool = ThreadPoolExecutor(self._threads)

    def __enter__(self) -> "Assembly":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def compute(self, frame: pl.DataFrame, built: Sequence[Feature]) -> None:
        """The built features of `frame`, which is in the grid's order."""
        size = min(features.BLOCK, max(1, RAW_BYTES // (POLARS_COLUMNS * 8 * self.num_rows)))
        for start in range(0, len(built), size):
            blocks = features.blocks(frame, built[start : start + size])
            for _, block in self._pace.during(partial(list[tuple[int, pl.DataFrame]], blocks)):
                columns = [c.cast(pl.Float64).fill_null(float("nan")).to_numpy() for c in block.iter_columns()]
                self._normalise(columns, self._grid.day_rows)

    def read(self, source: Source, names: Sequence[str]) -> None:
        """The file's own columns."""
        table, place = source.table, self._of_table(source)
        unplaced = np.ones(self.num_rows + 1, np.bool_)
        unplaced[place] = False
        holes = np.flatnonzero(unplaced[:-1])
        at = 0
        while at < len(names):
            stop = self._group(table, names, at)
            part = names[at:stop]
            raw = [self._room(table, n, k) for k, n in enumerate(part)]
            for column in raw:
                column[holes] = np.nan
            self._scatter(table, part, raw, place)
            self._normalise([column[:-1] for column in raw], None)
            at = stop

    def _group(self, table: Table, names: Sequence[str], at: int) -> int:
        """Where a run of columns ends that fits into the ready columns and into RAW_BYTES."""
        room = RAW_BYTES
        stop = at
        while stop < len(names) and stop - at < len(self._ready) - self._filled:
            if not self._narrow(table, names[stop]):
                room -= 8 * self.num_rows
                if room < 0 and stop > at:
                    break
            stop += 1
        return stop

    def _narrow(self, table: Table, name: str) -> bool:
        return float_type(table.schema.field(name).type) is np.float32

    def _room(self, table: Table, name: str, k: int) -> Column:
        """Where a raw column goes: what fits into float32 is normalised in place."""
        return self._ready[self._filled + k] if self._narrow(table, name) else np.empty(self.num_rows + 1)

    def _of_table(self, source: Source) -> npt.NDArray[np.int64]:
        """The place in day order of each row of the table, R for rows outside of every listed span."""
        placed = np.where(self._grid.place >= 0, self._place[self._grid.place], self.num_rows)
        return source.in_table_order(placed)

    def _scatter(
        self,
        table: Table,
        names: Sequence[str],
        raw: Sequence[Column],
        place: Int[np.ndarray, " row"],
    ) -> None:
        start = 0
        waiting: list[Future[None]] = []
        for batch in table.batches(names):
            for future in waiting:
                future.result()
            here = place[start : start + batch.num_rows]
            index: slice | npt.NDArray[np.int64] = here
            if len(here) and here[-1] - here[0] == len(here) - 1 and (np.diff(here) == 1).all():
                index = slice(int(here[0]), int(here[-1]) + 1)
            waiting = [
                self._pool.submit(_put, batch, list(names[k :: self._threads]), raw[k :: self._threads], index)
                for k in range(self._threads)
            ]
            start += batch.num_rows
            self._say(len(names) * start / table.num_rows / 2)
        for future in waiting:
            future.result()

    def _normalise(self, columns: Sequence[Column], order: Int[np.ndarray, " row"] | None) -> None:
        """Normalise each column, brought into day `order`, into its ready place; write when there is no more room."""
        first = 0
        while first < len(columns):
            part = columns[first : first + len(self._ready) - self._filled]
            waiting = [
                self._pool.submit(self._one, column, order, self._ready[self._filled + k, :-1])
                for k, column in enumerate(part)
            ]
            for future in waiting:
                self._pace.wait(future)
            self._filled += len(part)
            first += len(part)
            if self._filled == len(self._ready) or self._written + self._filled == self._width:
                self._flush()
        self._say(0.0)

    def _one(self, column: Column, order: Int[np.ndarray, " row"] | None, out: Float32[np.ndarray, " row"]) -> None:
        self._section.normalise(column if order is None else column[order], out)

    def _say(self, more: float) -> None:
        self._pace.at((self._written + self._filled + more) / self._width)

    def _flush(self) -> None:
        waiting = [self._pool.submit(self._write, start) for start in range(0, self.num_rows, TILE_ROWS * TILES)]
        for future in waiting:
            self._pace.wait(future)
        self._written += self._filled
        self._filled = 0

    def _write(self, start: int) -> None:
        for first in range(start, min(start + TILE_ROWS * TILES, self.num_rows), TILE_ROWS):
            rows = slice(first, min(first + TILE_ROWS, self.num_rows))
            place, target = self._place[rows], self._matrix[rows, self._written : self._written + self._filled]
            for column in range(0, self._filled, TILE_COLUMNS):
                columns = slice(column, min(column + TILE_COLUMNS, self._filled))
                target[:, columns] = self._ready[columns].take(place, axis=1).T


def _put(
    batch: pa.RecordBatch, names: Sequence[str], raw: Sequence[Column], index: slice | Int[np.ndarray, " row"]
) -> None:
    for name, column in zip(names, raw, strict=True):
        column[index] = floats(batch.column(name))
