"""Fills the feature matrix of a cache: raw columns are brought into day order, normalised across each day, and written
to the mapped file. A source file sorted by date is read once, in blocks of whole days with all columns; any other file,
and computed features, a few columns of all days at a time."""

import os
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from jaxtyping import Float32, Int

from atft.data.builder.crosssection import CrossSection
from atft.data.checks.profile import Summary, summaries
from atft.data.features import compute
from atft.data.features.formulas import Feature
from atft.data.panel.calendar_grid import CalendarGrid
from atft.data.panel.source import Source
from atft.data.panel.survey import float_type, to_floats
from atft.data.progress import ProgressReporter
from atft.data.read.tables import Table
from atft.spec.data import TableFile

POLARS_COLUMNS = 16  # columns of memory that polars needs to compute one feature
NORMALISED_BYTES = 1 << 30  # at most, of normalised columns that are not written yet
RAW_BYTES = 3 << 27  # of raw columns as they are read or computed
RAW_CELL_BYTES = 12  # at most, of one value, raw and normalised
BLOCK_BYTES = 1 << 26  # of one block of days by column, and as much again by row
TILE_ROWS, TILE_COLUMNS = 1 << 11, 8  # transposed at once: a core prefetches about as many columns
TILES = 8  # transposed by one task
BLOCK_ROWS = 1 << 13  # minimum capacity of a block, however many columns there are
GROUP_COLUMNS = 7  # columns normalised by one task: with more, its temporary arrays are allocated anew each time

Column = npt.NDArray[np.floating]
Index = slice | npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLayout:
    """Where the rows of a source table belong in a panel of R rows in day order."""

    position: npt.NDArray[np.int64]  # day-order position of each table row; R outside of every listed span
    missing: npt.NDArray[np.int64]  # positions that no table row fills
    running_day: npt.NDArray[np.int64] | None  # latest day up to each table row; None if the days ever decrease


def row_layout(source: Source, grid: CalendarGrid) -> RowLayout:
    """The layout of the source's table on the calendar grid."""
    rows = len(grid.day_rows)
    in_day_order = np.append(_inverse_permutation(grid.day_rows), rows)
    position = source.in_table_order(in_day_order[grid.row_of_source])  # -1 is the last one
    unplaced = np.ones(rows + 1, np.bool_)
    unplaced[position] = False
    days = np.append(grid.day_index[grid.day_rows], -1)
    day = days[position]
    running = np.maximum.accumulate(day)
    forward = ((day == running) | (day < 0)).all()
    return RowLayout(position=position, missing=np.flatnonzero(unplaced[:-1]), running_day=running if forward else None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _DayBlock:
    """Consecutive whole days: their positions in day order, and the table row after their last one."""

    positions: slice
    stop: int
    section: CrossSection


@dataclass(frozen=True, kw_only=True, slots=True)
class _ColumnGroup:
    """Columns that are normalised together, as they are read."""

    columns: slice
    values: npt.NDArray[np.floating]  # [column, position]
    finite: bool


class _BlockBuffers:
    """Buffers for blocks of at most `rows` rows, used for one block after the other."""

    def __init__(self, fits_float32: Sequence[bool], finite: Sequence[bool], rows: int) -> None:
        # The last cell of each column takes the values that belong to no row of the grid.
        self.normalised = np.empty((len(fits_float32), rows + 1), np.float32)
        self.row_major = np.empty((rows, len(fits_float32)), np.float32)
        self.groups = [
            self._column_group(columns, fits_float32[columns.start], finite)
            for columns in _equal_runs(fits_float32, GROUP_COLUMNS)
        ]
        self.raw = [column for group in self.groups for column in group.values]

    def _column_group(self, columns: slice, fits_float32: bool, finite: Sequence[bool]) -> _ColumnGroup:
        """Buffers of one group; values that fit into float32 are normalised in place."""
        shape = columns.stop - columns.start, self.normalised.shape[1]
        return _ColumnGroup(
            columns=columns,
            values=self.normalised[columns] if fits_float32 else np.empty(shape),
            finite=all(finite[columns]),
        )


class MatrixWriter:
    """Normalises feature columns, in the order of the features, and writes them to `matrix`, [row, feature]."""

    def __init__(
        self, grid: CalendarGrid, matrix: Float32[np.memmap, "row feature"], progress: ProgressReporter
    ) -> None:
        self._matrix, self._grid, self._progress = matrix, grid, progress
        self.num_rows, self._width = matrix.shape
        passes = min(self._width, -(-self._width * 4 * self.num_rows // NORMALISED_BYTES))
        # The last cell of each column takes the values that belong to no row. Pages are touched only when used.
        self._normalised = np.empty((-(-self._width // passes), self.num_rows + 1), np.float32)
        self._valid = grid.valid[grid.day_rows]
        self._written = self._filled = 0
        self.summaries: dict[str, Summary] = {}  # of the built features, before they are normalised
        self._threads = pl.thread_pool_size()
        self._pool = ThreadPoolExecutor(self._threads)
        self._writing: list[Future[None]] = []
        # Whole rows are written to the file itself: through the map each page would first be faulted in and cleared.
        self._file = os.open(str(matrix.filename), os.O_WRONLY)

    @cached_property
    def _position(self) -> npt.NDArray[np.int64]:
        """The day-order position of each grid row."""
        return _inverse_permutation(self._grid.day_rows)

    @cached_property
    def _section(self) -> CrossSection:
        return CrossSection(self._grid.day_offsets, self._valid)

    def __enter__(self) -> "MatrixWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        os.close(self._file)

    def write_built(self, frame: pl.DataFrame, built: Sequence[Feature]) -> None:
        """Compute the features `built` from `frame`, whose rows are the grid's, and write them."""
        size = min(compute.BLOCK, max(1, RAW_BYTES // (POLARS_COLUMNS * 8 * self.num_rows)))
        for start in range(0, len(built), size):
            blocks = compute.blocks(frame, built[start : start + size])
            for _, block in self._progress.run(partial(list[tuple[int, pl.DataFrame]], blocks)):
                self.summaries |= self._progress.run(partial(summaries, block))
                columns = [c.cast(pl.Float64).fill_null(float("nan")).to_numpy() for c in block.iter_columns()]
                self._normalise(columns, self._grid.day_rows)

    def write_columns(self, table: Table, names: Sequence[str], layout: RowLayout, infinite: Set[str]) -> None:
        """Write the columns `names` of the source file; `infinite` names those with infinite values."""
        if layout.running_day is None:
            self._write_by_column(table, names, layout)
            return
        self._flush()
        max_columns = max(1, BLOCK_BYTES // (RAW_CELL_BYTES * BLOCK_ROWS))
        for at in range(0, len(names), max_columns):
            self._write_by_day(table, names[at : at + max_columns], layout, layout.running_day, infinite)

    def _blocks(self, day: Int[np.ndarray, " row"], max_rows: int) -> Iterator[_DayBlock]:
        """Blocks of at most `max_rows` rows, but at least one day."""
        offsets, first = self._grid.day_offsets, 0
        while first < len(offsets) - 1:
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + max_rows, side="right")) - 1)
            positions = slice(int(offsets[first]), int(offsets[last]))
            section = CrossSection(offsets[first : last + 1] - offsets[first], self._valid[positions])
            yield _DayBlock(positions=positions, stop=int(np.searchsorted(day, last)), section=section)
            first = last

    def _write_by_day(
        self,
        table: Table,
        names: Sequence[str],
        layout: RowLayout,
        day: Int[np.ndarray, " row"],
        infinite: Set[str],
    ) -> None:
        fits_float32 = [self._fits_float32(table, n) for n in names]
        row_bytes = sum(4 if fits else RAW_CELL_BYTES for fits in fits_float32)
        blocks = list(self._blocks(day, BLOCK_BYTES // row_bytes))
        buffers = _BlockBuffers(
            fits_float32, [n not in infinite for n in names], max(b.positions.stop - b.positions.start for b in blocks)
        )
        waiting: list[Future[None]] = []
        number = 0
        for start, batch in _split_batches(table.batches(names), [b.stop for b in blocks]):
            self._progress.wait_all(waiting)
            while start >= blocks[number].stop:
                self._finish_block(blocks[number], buffers, layout.missing)
                number += 1
            here = layout.position[start : start + batch.num_rows]
            index = _as_slice(np.where(here < self.num_rows, here - blocks[number].positions.start, -1))
            waiting = self._submit_copies(batch, table.written, names, buffers.raw, index)
            self._report(len(names) * start / table.num_rows)
        self._progress.wait_all(waiting)
        for block in blocks[number:]:
            self._finish_block(block, buffers, layout.missing)
        self._progress.wait_all(self._writing)
        self._written += len(names)
        self._report(0.0)

    def _finish_block(self, block: _DayBlock, buffers: _BlockBuffers, missing: Int[np.ndarray, " hole"]) -> None:
        """Normalise a complete block, bring it into the grid's row order, and write it."""
        first, stop = block.positions.start, block.positions.stop
        empty = missing[np.searchsorted(missing, first) : np.searchsorted(missing, stop)] - first
        normalised, row_major = buffers.normalised, buffers.row_major
        sorting = self._pool.submit(_sorted_rows, self._grid.day_rows[first:stop])

        def normalise(group: _ColumnGroup) -> None:
            group.values[:, empty] = np.nan
            out = normalised[group.columns, : stop - first]
            block.section.normalise(group.values[:, : stop - first], out, finite=group.finite)

        def transpose(start: int) -> None:
            for at in range(start, min(start + TILE_ROWS * TILES, len(rows)), TILE_ROWS):
                end = min(at + TILE_ROWS, len(rows))
                tile = np.empty((end - at, len(normalised)), np.float32)
                for column in range(0, len(normalised), TILE_COLUMNS):
                    columns = slice(column, column + TILE_COLUMNS)
                    tile[:, columns] = normalised[columns, at:end].T
                row_major[rank[at:end]] = tile

        def write() -> None:
            for begin, end in pairwise(runs.tolist()):
                self._write_rows(int(rows[begin]), row_major[begin:end])

        self._progress.wait_all([self._pool.submit(normalise, group) for group in buffers.groups])
        rows, rank, runs = self._progress.wait(sorting)
        self._progress.wait_all(self._writing)  # of the previous block, which used `row_major`
        self._progress.wait_all([self._pool.submit(transpose, at) for at in range(0, len(rows), TILE_ROWS * TILES)])
        self._writing = [
            self._pool.submit(write)
        ]  # runs while the next block is read; one writer at a time, since two would block each other

    def _write_rows(self, row: int, values: Float32[np.ndarray, "row column"]) -> None:
        """Write consecutive rows from row `row` on, in the columns from the first unwritten one on."""
        if values.shape[1] == self._width:
            _write_all(self._file, values, self._matrix.offset + row * values.strides[0])
        else:
            self._matrix[row : row + len(values), self._written : self._written + values.shape[1]] = values

    def _write_by_column(self, table: Table, names: Sequence[str], layout: RowLayout) -> None:
        at = 0
        while at < len(names):
            stop = self._group_end(table, names, at)
            group = names[at:stop]
            raw = [self._raw_buffer(table, n, k) for k, n in enumerate(group)]
            for column in raw:
                column[layout.missing] = np.nan
            self._scatter(table, group, raw, layout.position)
            self._normalise([column[:-1] for column in raw], None)
            at = stop

    def _group_end(self, table: Table, names: Sequence[str], at: int) -> int:
        """End of the column run from `at` on that fits into the free normalised columns and into RAW_BYTES."""
        bytes_left = RAW_BYTES
        stop = at
        while stop < len(names) and stop - at < len(self._normalised) - self._filled:
            if not self._fits_float32(table, names[stop]):
                bytes_left -= 8 * self.num_rows
                if bytes_left < 0 and stop > at:
                    break
            stop += 1
        return stop

    def _fits_float32(self, table: Table, name: str) -> bool:
        return float_type(table.schema.field(name).type) is np.float32

    def _raw_buffer(self, table: Table, name: str, k: int) -> Column:
        """Buffer for a raw column; one that fits into float32 is normalised in place."""
        return self._normalised[self._filled + k] if self._fits_float32(table, name) else np.empty(self.num_rows + 1)

    def _scatter(
        self, table: Table, names: Sequence[str], raw: Sequence[Column], position: Int[np.ndarray, " row"]
    ) -> None:
        start = 0
        waiting: list[Future[None]] = []
        for batch in table.batches(names):
            self._progress.wait_all(waiting)
            index = _as_slice(position[start : start + batch.num_rows])
            waiting = self._submit_copies(batch, table.written, names, raw, index)
            start += batch.num_rows
            self._report(len(names) * start / table.num_rows / 2)
        self._progress.wait_all(waiting)

    def _submit_copies(
        self, batch: pa.RecordBatch, written: TableFile, names: Sequence[str], raw: Sequence[Column], index: Index
    ) -> list[Future[None]]:
        step = self._threads
        parts = [(names[k::step], raw[k::step]) for k in range(step)]
        return [self._pool.submit(_copy_columns, batch, written, *part, index) for part in parts]

    def _normalise(self, columns: Sequence[Column], order: Int[np.ndarray, " row"] | None) -> None:
        """Normalise each column, taken in row `order`, into the next free buffer column; write when these are full."""
        first = 0
        while first < len(columns):
            group = columns[first : first + len(self._normalised) - self._filled]
            section = self._section
            waiting = [
                self._pool.submit(_normalise_one, section, column, order, self._normalised[self._filled + k, :-1])
                for k, column in enumerate(group)
            ]
            self._progress.wait_all(waiting)
            self._filled += len(group)
            first += len(group)
            if self._filled == len(self._normalised) or self._written + self._filled == self._width:
                self._flush()
        self._report(0.0)

    def _report(self, more: float) -> None:
        self._progress.update((self._written + self._filled + more) / self._width)

    def _flush(self) -> None:
        if not self._filled:
            return
        starts = range(0, self.num_rows, TILE_ROWS * TILES)
        self._progress.wait_all([self._pool.submit(self._write_tiles, self._position, start) for start in starts])
        self._written += self._filled
        self._filled = 0

    def _write_tiles(self, positions: Int[np.ndarray, " row"], start: int) -> None:
        for first in range(start, min(start + TILE_ROWS * TILES, self.num_rows), TILE_ROWS):
            rows = slice(first, min(first + TILE_ROWS, self.num_rows))
            position, tile = positions[rows], np.empty((rows.stop - first, self._filled), np.float32)
            for column in range(0, self._filled, TILE_COLUMNS):
                columns = slice(column, min(column + TILE_COLUMNS, self._filled))
                tile[:, columns] = self._normalised[columns].take(position, axis=1).T
            self._write_rows(first, tile)


def _normalise_one(
    section: CrossSection, column: Column, order: Int[np.ndarray, " row"] | None, out: Float32[np.ndarray, " row"]
) -> None:
    section.normalise((column if order is None else column[order])[None], out[None])


def _equal_runs(flags: Sequence[bool], max_columns: int) -> list[slice]:
    """Runs of equal flags, cut into pieces of at most `max_columns`."""
    edges = [0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(flags)]
    return [
        slice(at, min(at + max_columns, stop))
        for start, stop in pairwise(edges)
        for at in range(start, stop, max_columns)
    ]


def _inverse_permutation(order: Int[np.ndarray, " row"]) -> npt.NDArray[np.int64]:
    """The inverse of a permutation."""
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return position


def _sorted_rows(
    rows: Int[np.ndarray, " row"],
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"], Int[np.ndarray, " run"]]:
    """The sorted rows, the rank of each, and the starts of the runs of consecutive rows, with the end."""
    order = np.argsort(rows)
    ordered = rows[order]
    return ordered, _inverse_permutation(order), np.flatnonzero(np.diff(ordered, prepend=-2, append=-2) != 1)


def _write_all(file: int, values: Float32[np.ndarray, "row column"], at: int) -> None:
    left = values.data.cast("B")
    while left:
        done = os.pwrite(file, left, at)
        left, at = left[done:], at + done


def _split_batches(batches: Iterator[pa.RecordBatch], stops: Sequence[int]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches, cut before each row of `stops`, each with the table row of its first row."""
    start = 0
    for batch in batches:
        end = start + batch.num_rows
        edges = [start, *(stop for stop in stops if start < stop < end), end]
        for a, b in pairwise(edges):
            yield a, batch.slice(a - start, b - a)
        start = end


def _as_slice(index: Int[np.ndarray, " row"]) -> slice | npt.NDArray[np.int64]:
    """`index` as a slice if its rows are consecutive, which is several times as fast."""
    if len(index) and index[0] >= 0 and index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def _copy_columns(
    batch: pa.RecordBatch, written: TableFile, names: Sequence[str], raw: Sequence[Column], index: Index
) -> None:
    for name, column in zip(names, raw, strict=True):
        column[index] = to_floats(batch.column(name), written)
