"""Fills the feature matrix of a cache: raw columns are put in day order, normalised across each day, and written into
the mapped file. A file that goes day by day is read once, a block of whole days with all its columns at a time; any
other, and what is computed, a few columns of all days at a time.
"""

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
from atft.data.panel.calendar_grid import Grid
from atft.data.panel.source import Source
from atft.data.panel.survey import float_type, floats
from atft.data.progress import Pace
from atft.data.read.tables import Table

POLARS_COLUMNS = 16  # that it needs for one feature
READY_BYTES = 1 << 30  # at most, of normalised columns that wait to be written
RAW_BYTES = 3 << 27  # of columns as they are read, and of features as they are computed
RAW_CELL_BYTES = 12  # at most, of a value on its way: as it is read, and normalised
BLOCK_BYTES = 1 << 26  # of the columns of one block of days, and once more of its rows
TILE_ROWS, TILE_COLUMNS = 1 << 11, 8  # turned into rows at once: a core reads as many columns ahead
TILES = 8  # turned by one task
BLOCK_ROWS = 1 << 13  # that a block has room for, however many columns there are
SCORED = 7  # columns that are normalised together by one task: with more, what it needs is new memory each time

Column = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where the rows of a table belong."""

    place: npt.NDArray[np.int64]  # of each row its place in day order, R outside of every listed span
    holes: npt.NDArray[np.int64]  # places that no row has
    day: npt.NDArray[np.int64] | None  # the day that the table has come to at each row; None if it ever goes back


def lay_out(source: Source, grid: Grid) -> Layout:
    rows = len(grid.day_rows)
    in_day_order = np.append(_inverse(grid.day_rows), rows)
    place = source.in_table_order(in_day_order[grid.place])  # -1 is the last one
    unplaced = np.ones(rows + 1, np.bool_)
    unplaced[place] = False
    days = np.append(grid.day_index[grid.day_rows], -1)
    day = days[place]
    running = np.maximum.accumulate(day)
    forward = ((day == running) | (day < 0)).all()
    return Layout(place=place, holes=np.flatnonzero(unplaced[:-1]), day=running if forward else None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """A run of whole days: its places in day order, and the table's row after its last one."""

    places: slice
    stop: int
    section: CrossSection


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Columns that are normalised together, as they are read."""

    columns: slice
    values: npt.NDArray[np.floating]  # [column, place]
    finite: bool


class _Room:
    """For one block after the other of at most so many rows."""

    def __init__(self, narrow: Sequence[bool], finite: Sequence[bool], rows: int) -> None:
        self.ready = np.empty((len(narrow), rows + 1), np.float32)  # the last cell is for what belongs nowhere
        self.turned = np.empty((rows, len(narrow)), np.float32)
        self.parts = [self._part(columns, narrow[columns.start], finite) for columns in _alike(narrow, SCORED)]
        self.raw = [column for part in self.parts for column in part.values]

    def _part(self, columns: slice, narrow: bool, finite: Sequence[bool]) -> _Part:
        """What fits into float32 is normalised in place."""
        shape = columns.stop - columns.start, self.ready.shape[1]
        return _Part(
            columns=columns,
            values=self.ready[columns] if narrow else np.empty(shape),
            finite=all(finite[columns]),
        )


class Assembly:
    """Collects normalised columns, in order and in day order, and writes them into `matrix`, [row, feature]."""

    def __init__(self, grid: Grid, matrix: Float32[np.memmap, "row feature"], pace: Pace) -> None:
        self._matrix, self._grid, self._pace = matrix, grid, pace
        self.num_rows, self._width = matrix.shape
        passes = min(self._width, -(-self._width * 4 * self.num_rows // READY_BYTES))
        # One cell more than there are rows: what belongs nowhere goes there. No page of it is touched before its use.
        self._ready = np.empty((-(-self._width // passes), self.num_rows + 1), np.float32)
        self._valid = grid.valid[grid.day_rows]
        self._written = self._filled = 0
        self.summaries: dict[str, Summary] = {}  # of the built features, before they are normalised
        self._threads = pl.thread_pool_size()
        self._pool = ThreadPoolExecutor(self._threads)
        self._writing: list[Future[None]] = []
        # Whole rows are written here: through the map each page would be cleared and faulted in first.
        self._file = os.open(str(matrix.filename), os.O_WRONLY)

    @cached_property
    def _place(self) -> npt.NDArray[np.int64]:
        """Of each row its place in day order."""
        return _inverse(self._grid.day_rows)

    @cached_property
    def _section(self) -> CrossSection:
        return CrossSection(self._grid.day_offsets, self._valid)

    def __enter__(self) -> "Assembly":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        os.close(self._file)

    def compute(self, frame: pl.DataFrame, built: Sequence[Feature]) -> None:
        """The built features of `frame`, which is in the grid's order."""
        size = min(compute.BLOCK, max(1, RAW_BYTES // (POLARS_COLUMNS * 8 * self.num_rows)))
        for start in range(0, len(built), size):
            blocks = compute.blocks(frame, built[start : start + size])
            for _, block in self._pace.during(partial(list[tuple[int, pl.DataFrame]], blocks)):
                self.summaries |= self._pace.during(partial(summaries, block))
                columns = [c.cast(pl.Float64).fill_null(float("nan")).to_numpy() for c in block.iter_columns()]
                self._normalise(columns, self._grid.day_rows)

    def read(self, table: Table, names: Sequence[str], layout: Layout, infinite: Set[str]) -> None:
        """The file's own columns; `infinite` are those with infinite values."""
        if layout.day is None:
            self._by_column(table, names, layout)
            return
        self._flush()
        most = max(1, BLOCK_BYTES // (RAW_CELL_BYTES * BLOCK_ROWS))
        for at in range(0, len(names), most):
            self._by_day(table, names[at : at + most], layout, layout.day, infinite)

    def _blocks(self, day: Int[np.ndarray, " row"], most_rows: int) -> Iterator[_Block]:
        """Blocks of at most so many rows, of one day at least."""
        offsets, first = self._grid.day_offsets, 0
        while first < len(offsets) - 1:
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + most_rows, side="right")) - 1)
            places = slice(int(offsets[first]), int(offsets[last]))
            section = CrossSection(offsets[first : last + 1] - offsets[first], self._valid[places])
            yield _Block(places=places, stop=int(np.searchsorted(day, last)), section=section)
            first = last

    def _by_day(
        self,
        table: Table,
        names: Sequence[str],
        layout: Layout,
        day: Int[np.ndarray, " row"],
        infinite: Set[str],
    ) -> None:
        narrow = [self._narrow(table, n) for n in names]
        row_bytes = sum(4 if fits else RAW_CELL_BYTES for fits in narrow)
        blocks = list(self._blocks(day, BLOCK_BYTES // row_bytes))
        room = _Room(narrow, [n not in infinite for n in names], max(b.places.stop - b.places.start for b in blocks))
        waiting: list[Future[None]] = []
        number = 0
        for start, batch in _cut(table.batches(names), [b.stop for b in blocks]):
            self._pace.wait_all(waiting)
            while start >= blocks[number].stop:
                self._close(blocks[number], room, layout.holes)
                number += 1
            here = layout.place[start : start + batch.num_rows]
            index = _run(np.where(here < self.num_rows, here - blocks[number].places.start, -1))
            waiting = self._putting(batch, names, room.raw, index)
            self._say(len(names) * start / table.num_rows)
        self._pace.wait_all(waiting)
        for block in blocks[number:]:
            self._close(block, room, layout.holes)
        self._pace.wait_all(self._writing)
        self._written += len(names)
        self._say(0.0)

    def _close(self, block: _Block, room: _Room, holes: Int[np.ndarray, " hole"]) -> None:
        """Normalises a block whose rows are all there, brings it into the grid's order, and writes it."""
        first, stop = block.places.start, block.places.stop
        empty = holes[np.searchsorted(holes, first) : np.searchsorted(holes, stop)] - first
        ready, turned = room.ready, room.turned
        sorting = self._pool.submit(_sorted_rows, self._grid.day_rows[first:stop])

        def score(part: _Part) -> None:
            part.values[:, empty] = np.nan
            out = ready[part.columns, : stop - first]
            block.section.normalise(part.values[:, : stop - first], out, finite=part.finite)

        def turn(start: int) -> None:
            for at in range(start, min(start + TILE_ROWS * TILES, len(rows)), TILE_ROWS):
                end = min(at + TILE_ROWS, len(rows))
                tile = np.empty((end - at, len(ready)), np.float32)
                for column in range(0, len(ready), TILE_COLUMNS):
                    columns = slice(column, column + TILE_COLUMNS)
                    tile[:, columns] = ready[columns, at:end].T
                turned[rank[at:end]] = tile

        def write() -> None:
            for begin, end in pairwise(runs.tolist()):
                self._put_rows(int(rows[begin]), turned[begin:end])

        self._pace.wait_all([self._pool.submit(score, part) for part in room.parts])
        rows, rank, runs = self._pace.wait(sorting)
        self._pace.wait_all(self._writing)  # of the block before: `turned` is free
        self._pace.wait_all([self._pool.submit(turn, at) for at in range(0, len(rows), TILE_ROWS * TILES)])
        self._writing = [self._pool.submit(write)]  # while the next block is read; two would wait for each other

    def _put_rows(self, row: int, values: Float32[np.ndarray, "row column"]) -> None:
        """Values of consecutive rows, of the columns from the first one that is not written yet."""
        if values.shape[1] == self._width:
            _write_all(self._file, values, self._matrix.offset + row * values.strides[0])
        else:
            self._matrix[row : row + len(values), self._written : self._written + values.shape[1]] = values

    def _by_column(self, table: Table, names: Sequence[str], layout: Layout) -> None:
        at = 0
        while at < len(names):
            stop = self._group(table, names, at)
            part = names[at:stop]
            raw = [self._room(table, n, k) for k, n in enumerate(part)]
            for column in raw:
                column[layout.holes] = np.nan
            self._scatter(table, part, raw, layout.place)
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
            self._pace.wait_all(waiting)
            index = _run(place[start : start + batch.num_rows])
            waiting = self._putting(batch, names, raw, index)
            start += batch.num_rows
            self._say(len(names) * start / table.num_rows / 2)
        self._pace.wait_all(waiting)

    def _putting(
        self,
        batch: pa.RecordBatch,
        names: Sequence[str],
        raw: Sequence[Column],
        index: slice | Int[np.ndarray, " row"],
    ) -> list[Future[None]]:
        step = self._threads
        return [self._pool.submit(_put, batch, names[k::step], raw[k::step], index) for k in range(step)]

    def _normalise(self, columns: Sequence[Column], order: Int[np.ndarray, " row"] | None) -> None:
        """Normalise each column, brought into day `order`, into its ready place; write when there is no more room."""
        first = 0
        while first < len(columns):
            part = columns[first : first + len(self._ready) - self._filled]
            section = self._section
            waiting = [
                self._pool.submit(_normalise_one, section, column, order, self._ready[self._filled + k, :-1])
                for k, column in enumerate(part)
            ]
            self._pace.wait_all(waiting)
            self._filled += len(part)
            first += len(part)
            if self._filled == len(self._ready) or self._written + self._filled == self._width:
                self._flush()
        self._say(0.0)

    def _say(self, more: float) -> None:
        self._pace.at((self._written + self._filled + more) / self._width)

    def _flush(self) -> None:
        if not self._filled:
            return
        starts = range(0, self.num_rows, TILE_ROWS * TILES)
        self._pace.wait_all([self._pool.submit(self._write, self._place, start) for start in starts])
        self._written += self._filled
        self._filled = 0

    def _write(self, places: Int[np.ndarray, " row"], start: int) -> None:
        for first in range(start, min(start + TILE_ROWS * TILES, self.num_rows), TILE_ROWS):
            rows = slice(first, min(first + TILE_ROWS, self.num_rows))
            place, tile = places[rows], np.empty((rows.stop - first, self._filled), np.float32)
            for column in range(0, self._filled, TILE_COLUMNS):
                columns = slice(column, min(column + TILE_COLUMNS, self._filled))
                tile[:, columns] = self._ready[columns].take(place, axis=1).T
            self._put_rows(first, tile)


def _normalise_one(
    section: CrossSection, column: Column, order: Int[np.ndarray, " row"] | None, out: Float32[np.ndarray, " row"]
) -> None:
    section.normalise((column if order is None else column[order])[None], out[None])


def _alike(flags: Sequence[bool], most: int) -> list[slice]:
    """Runs of equal ones, cut into pieces of at most so many."""
    edges = [0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(flags)]
    return [slice(at, min(at + most, stop)) for start, stop in pairwise(edges) for at in range(start, stop, most)]


def _inverse(order: Int[np.ndarray, " row"]) -> npt.NDArray[np.int64]:
    """Where each number of a permutation stands in it."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


def _sorted_rows(
    rows: Int[np.ndarray, " row"],
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"], Int[np.ndarray, " run"]]:
    """The rows in order, the rank of each, and where runs of consecutive ones begin, and the end."""
    order = np.argsort(rows)
    ordered = rows[order]
    return ordered, _inverse(order), np.flatnonzero(np.diff(ordered, prepend=-2, append=-2) != 1)


def _write_all(file: int, values: Float32[np.ndarray, "row column"], at: int) -> None:
    left = values.data.cast("B")
    while left:
        done = os.pwrite(file, left, at)
        left, at = left[done:], at + done


def _cut(batches: Iterator[pa.RecordBatch], stops: Sequence[int]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches, cut before each row of `stops`, with the table's row that each begins with."""
    start = 0
    for batch in batches:
        end = start + batch.num_rows
        edges = [start, *(stop for stop in stops if start < stop < end), end]
        for a, b in pairwise(edges):
            yield a, batch.slice(a - start, b - a)
        start = end


def _run(index: Int[np.ndarray, " row"]) -> slice | npt.NDArray[np.int64]:
    """`index` as a slice where it is one: several times as fast."""
    if len(index) and index[0] >= 0 and index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def _put(
    batch: pa.RecordBatch, names: Sequence[str], raw: Sequence[Column], index: slice | Int[np.ndarray, " row"]
) -> None:
    for name, column in zip(names, raw, strict=True):
        column[index] = floats(batch.column(name))
