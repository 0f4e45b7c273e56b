"""Robust z-scores across the stocks of a day: the normaliser of per-stock features. It is fitted within each day and so
uses no later data.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Float32, Int

CLIP = 5.0
MAD_SCALE = 1.4826  # of a normal distribution's standard deviation
MIN_RELATIVE_SCALE = 1e-12
CHUNK_CELLS = 1 << 20  # sorted at once
SPARE_CELLS = 1 << 16  # by which a chunk may exceed twice its rows


@dataclass(frozen=True, kw_only=True, slots=True)
class _DayChunk:
    """Consecutive days and their rows. `used`, [day, widest]: which cells hold a valid row; None if all do."""

    rows: slice
    counts: npt.NDArray[np.int64]  # rows of each day
    used: npt.NDArray[np.bool_] | None
    valid: npt.NDArray[np.bool_] | None  # of the rows; None: all


class CrossSection:
    """Normalises the columns of one panel, whose layout by day is computed once. Rows are in day order; only valid rows
    enter the median and the MAD, all rows are normalised.
    """

    def __init__(self, day_offsets: Int[np.ndarray, " day1"], valid: Bool[np.ndarray, " row"]) -> None:
        self._chunks = list(_chunks(day_offsets, valid))

    def normalise(
        self,
        values: Float[np.ndarray, "column row"],
        out: Float32[np.ndarray, "column row"],
        *,
        finite: bool = False,
    ) -> None:
        """Write (x - median) / (1.4826 MAD) of each day, clipped to ±5, to `out`, which may be `values`. Where the MAD
        is 0, the standard deviation (ddof 0) is used; where that is 0 too or x is missing, the score is 0. Infinity is
        missing; pass `finite` if there is none.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 are clipped
            for chunk in self._chunks:
                self._normalise(chunk, values[:, chunk.rows], out[:, chunk.rows], finite)

    def _normalise(
        self,
        chunk: _DayChunk,
        values: Float[np.ndarray, "column row"],
        out: Float32[np.ndarray, "column row"],
        finite: bool,
    ) -> None:
        """Few calls on many cells, since threads wait for the GIL between two NumPy calls."""
        columns = [x if finite else _without_infinite(x) for x in values]
        ordered = np.empty((len(columns), len(chunk.counts), int(chunk.counts.max())), values.dtype)
        for x, target in zip(columns, ordered, strict=True):
            _sort_days(x, chunk, target)
        centre, inverse = _centre_and_scale(ordered.reshape(-1, ordered.shape[2]))
        shape = len(columns), len(chunk.counts)
        for parts in zip(columns, centre.reshape(shape), inverse.reshape(shape), out, strict=True):
            _scale(chunk.counts, *parts)


def _chunks(day_offsets: Int[np.ndarray, " day1"], valid: Bool[np.ndarray, " row"]) -> Iterator[_DayChunk]:
    counts = np.diff(day_offsets).astype(np.int64)
    first = 0
    while first < len(counts):
        last, widest = first + 1, counts[first]
        while last < len(counts):  # a large day among small ones would make a mostly empty chunk
            wider = max(widest, counts[last])
            cells = wider * (last + 1 - first)
            if cells > CHUNK_CELLS or cells > 2 * (day_offsets[last + 1] - day_offsets[first]) + SPARE_CELLS:
                break
            last, widest = last + 1, wider
        rows = slice(int(day_offsets[first]), int(day_offsets[last]))
        chunk_counts, mask = counts[first:last], valid[rows]
        used = None
        if (chunk_counts != widest).any() or not mask.all():
            within = np.arange(widest) < chunk_counts[:, None]
            used = within.copy()
            used[within] = mask
        yield _DayChunk(rows=rows, counts=chunk_counts, used=used, valid=None if mask.all() else mask)
        first = last


def _without_infinite(x: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    if np.isfinite(np.fmin.reduce(x)) and np.isfinite(np.fmax.reduce(x)):  # both ignore NaN
        return x
    return np.where(np.isfinite(x), x, np.asarray(np.nan, x.dtype))


def _sort_days(x: Float[np.ndarray, " row"], chunk: _DayChunk, out: Float[np.ndarray, "day stock"]) -> None:
    """Write the valid values of each day in ascending order, NaN last, to `out`."""
    if chunk.used is None:
        out[:] = x.reshape(out.shape)
    else:
        out[:] = np.nan
        out[chunk.used] = x if chunk.valid is None else x[chunk.valid]
    out.sort(axis=1)


def _centre_and_scale(
    ordered: Float[np.ndarray, "day stock"],
) -> tuple[Float[np.ndarray, " day"], Float[np.ndarray, " day"]]:
    """Median and 1/scale of each day; both 0 without any value, 1/scale 0 without spread."""
    days, width = ordered.shape
    row = np.arange(days)
    count = np.full(days, width)
    if (gaps := np.isnan(ordered[:, -1])).any():
        count[gaps] = np.isnan(ordered[gaps]).argmax(axis=1)
    any_known = count > 0
    last = np.maximum(count - 1, 0)
    low, high = last // 2, np.minimum(count // 2, last)
    centre = np.where(any_known, (ordered[row, low].astype(np.float64) + ordered[row, high]) / 2, 0.0)
    nearest, next_nearest = _nearest(ordered, count, centre, low)
    scale = MAD_SCALE * (nearest + np.where(high > low, next_nearest, nearest)) / 2
    min_scale = MIN_RELATIVE_SCALE * np.maximum(np.abs(ordered[:, 0]), np.abs(ordered[row, last])).astype(np.float64)
    flat = np.flatnonzero(~(scale > min_scale) & any_known)
    if len(flat):
        scale[flat] = _row_std(ordered[flat] - centre[flat, None])
    usable = any_known & (scale > min_scale)
    return centre, np.divide(1.0, scale, out=np.zeros(days), where=usable)


def _nearest(
    ordered: Float[np.ndarray, "day stock"],
    count: Int[np.ndarray, " day"],
    centre: Float[np.ndarray, " day"],
    rank: Int[np.ndarray, " day"],
) -> tuple[Float[np.ndarray, " day"], Float[np.ndarray, " day"]]:
    """The `rank`-th smallest (from 0) of |x - centre| in each row and the next one, infinite where there is none.

    No second sort: the rank + 1 values nearest to the centre are adjacent in the sorted row, so that the first of them
    is found by bisection, and the next nearest value is beside them.
    """
    row = np.arange(len(ordered))
    low, end = np.zeros(len(ordered), np.int64), count - rank
    high = end.copy()
    while (low < high).any():
        middle = np.minimum((low + high) // 2, end - 1)
        reached = ordered[row, middle + rank] - centre >= centre - ordered[row, middle]
        open_ = low < high
        high = np.where(open_ & reached, middle, high)
        low = np.where(open_ & ~reached, middle + 1, low)

    def above(at: Int[np.ndarray, " day"]) -> Float[np.ndarray, " day"]:
        return np.where(at < count, ordered[row, np.minimum(at, len(ordered[0]) - 1)] - centre, np.inf)

    def below(at: Int[np.ndarray, " day"]) -> Float[np.ndarray, " day"]:
        return np.where(at >= 0, centre - ordered[row, np.maximum(at, 0)], np.inf)

    right, left = above(low + rank), below(low - 1)
    beyond = np.where(right <= left, np.minimum(left, above(low + rank + 1)), np.minimum(right, below(low - 2)))
    return np.minimum(right, left), beyond


def _row_std(centred: Float[np.ndarray, "day stock"]) -> Float[np.ndarray, " day"]:
    known = np.isfinite(centred)
    count = np.maximum(known.sum(axis=1), 1)
    values = np.where(known, centred, 0.0)
    mean = values.sum(axis=1) / count
    return np.asarray(
        np.sqrt((np.where(known, values - mean[:, None], 0.0) ** 2).sum(axis=1) / count), dtype=np.float64
    )


def _scale(
    counts: Int[np.ndarray, " day"],
    x: Float[np.ndarray, " row"],
    centre: Float[np.ndarray, " day"],
    inverse: Float[np.ndarray, " day"],
    out: Float32[np.ndarray, " row"],
) -> None:
    """Write clip((x - centre) * inverse) of each day, computed in float64, to `out`; NaN becomes 0."""
    if (counts == counts[0]).all():
        score = np.subtract(x.reshape(len(counts), int(counts[0])), centre[:, None], dtype=np.float64)
        score *= inverse[:, None]
    else:
        score = np.subtract(x, np.repeat(centre, counts), dtype=np.float64)
        score *= np.repeat(inverse, counts)
    out[:] = score.reshape(-1)
    np.clip(out, np.float32(-CLIP), np.float32(CLIP), out=out)
    if np.isnan(np.min(out, initial=0.0)):
        np.copyto(out, 0.0, where=np.isnan(out))  # faster than indexing
