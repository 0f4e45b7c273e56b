"""The filter bank: each feature of the last day and in seven exponentially weighted means of growing half-life."""

from typing import Final

import numpy as np
from jaxtyping import Float, Int

NUM_MEANS: Final = 7
_BLOCK_CELLS: Final = 1 << 22  # of gathered windows that are in memory at once


def filters(window: int) -> Float[np.ndarray, "day filter"]:
    """Weights of the days of a window, oldest first; each filter's sum to 1. The first is the last day alone, the
    others are means with half-lives in equal ratios from one day to the window. A window of one day has one filter.
    """
    age = np.arange(window)[::-1].astype(np.float64)
    last = (age == 0).astype(np.float64)[:, None]
    if window == 1:
        return np.asarray(last)
    means = 0.5 ** (age[:, None] / np.geomspace(1.0, window, NUM_MEANS))
    return np.concatenate([last, means / means.sum(axis=0)], axis=1)


def filtered(
    rows: Float[np.ndarray, "row feature"],
    windows: Int[np.ndarray, "stock day"],
    weights: Float[np.ndarray, "day filter"],
) -> Float[np.ndarray, "stock feature*filter"]:
    """The features of each window through each filter, feature by feature; `windows` are rows, oldest first."""
    found = np.empty((len(windows), rows.shape[1], weights.shape[1]))
    block = max(1, _BLOCK_CELLS // (windows.shape[1] * max(1, rows.shape[1])))
    for start in range(0, len(windows), block):
        part = windows[start : start + block]
        np.matmul(rows[part].transpose(0, 2, 1), weights, out=found[start : start + block])
    return found.reshape(len(windows), -1)
