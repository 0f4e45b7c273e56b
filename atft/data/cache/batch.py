"""A batch: the samples of consecutive whole trading days as tensors on one device."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One step's samples, ordered by day. `x` holds each (stock, day) row once, however many windows contain it, so
    that work on rows is shared.
    """

    x: Float[
        Tensor, "row feature"
    ]  # union of the windows' rows: the selected features, then the market columns of the row's day
    windows: Int64[Tensor, "stock window"]  # rows of x of each sample, oldest first
    targets: Float[Tensor, "stock horizon"]  # raw forward returns; NaN unknown
    labels: Float[Tensor, "stock horizon"]  # data.target's form, within each day; NaN unknown or not ranked
    ranks: Float[
        Tensor, "stock horizon"
    ]  # average ranks of the labels within each day, mean 0, std 1 (ddof 0); NaN as labels
    ranked: Bool[Tensor, " stock"]  # in the universe and valid: enters loss and metrics; others only feed the graph
    day: Int64[Tensor, " stock"]  # 0 … num_days - 1, non-decreasing
    num_days: int
    edges: Int64[Tensor, "2 edge"]  # sample numbers
    edge_attributes: Float[Tensor, "edge 4"]
    day_numbers: Int[np.ndarray, " days"]  # of the cache
    rows: Int[np.ndarray, " stock"]  # of the panel
