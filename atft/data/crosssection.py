"""Robust z-scores across the stocks of a day: the one normaliser of per-stock features, fitted within the day and so on
nothing that comes later.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

CLIP = 5.0
MAD_SCALE = 1.4826  # of a normal distribution's standard deviation
TINY = 1e-12


class CrossSection:
    """The layout of a panel by day, computed once. Only valid rows enter the median and the MAD; all rows are
    normalised by them.
    """

    def __init__(
        self,
        day_index: Int[np.ndarray, " row"],
        day_offsets: Int[np.ndarray, " day1"],
        day_rows: Int[np.ndarray, " row"],
        valid: Bool[np.ndarray, " row"],
    ) -> None:
        self._shape = (len(day_offsets) - 1, int(np.diff(day_offsets).max()))
        place = np.empty(len(day_rows), np.int64)
        place[day_rows] = np.arange(len(day_rows))
        self._day = day_index
        self._cell = day_index * np.int64(self._shape[1]) + place - day_offsets[day_index]
        self._valid = valid

    def normalised(self, values: Float[np.ndarray, " row"]) -> Float32[np.ndarray, " row"]:
        """(x - median) / (1.4826 MAD), clipped to ±5; where the MAD is 0 the standard deviation (ddof 0); 0 where that
        is 0 too or x is missing.
        """
        known = np.isfinite(values)
        dense = np.full(self._shape, np.nan)
        used = known & self._valid
        dense.reshape(-1)[self._cell[used]] = values[used]
        median = _row_medians(dense)
        dense -= median[:, None]
        scale = MAD_SCALE * _row_medians(np.abs(dense))
        flat = np.flatnonzero(~(scale > TINY))
        if len(flat):
            scale[flat] = _row_std(dense[flat])
        usable = scale > TINY
        inverse = np.divide(1.0, scale, out=np.zeros(len(scale)), where=usable)
        with np.errstate(over="ignore"):
            result = (np.where(known, values, 0.0) - np.nan_to_num(median)[self._day]) * inverse[self._day]
        return np.where(known, np.clip(result, -CLIP, CLIP), 0.0).astype(np.float32)


def _row_medians(dense: Float[np.ndarray, "day stock"]) -> Float[np.ndarray, " day"]:
    """Medians of the rows' finite values; NaN for a row without any."""
    count = np.isfinite(dense).sum(axis=1)
    ordered = np.sort(dense, axis=1)  # NaN sorts last
    row = np.arange(len(dense))
    low, high = ordered[row, np.maximum(count - 1, 0) // 2], ordered[row, np.minimum(count // 2, dense.shape[1] - 1)]
    return np.where(count > 0, (low + high) / 2, np.nan)


def _row_std(dense: Float[np.ndarray, "day stock"]) -> Float[np.ndarray, " day"]:
    known = np.isfinite(dense)
    count = np.maximum(known.sum(axis=1), 1)
    values = np.where(known, dense, 0.0)
    mean = values.sum(axis=1) / count
    return np.asarray(
        np.sqrt((np.where(known, values - mean[:, None], 0.0) ** 2).sum(axis=1) / count), dtype=np.float64
    )
