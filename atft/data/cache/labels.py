"""Training labels and ranks within one day, over the ranked stocks whose target is known; NaN for the others."""

from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64

from atft.data.cache.reader import Cache
from atft.metrics.rank import average_ranks
from atft.spec.data import DataSpec, Target

NEUTRAL: Final = ("sector_neutral", "beta_neutral")  # the forms with an order of their own
DECIMALS: Final = 9  # of a residual that are compared: those of stocks that equal their sector differ by rounding


def day_labels(
    targets: Float[np.ndarray, "stock horizon"],
    ranked: Bool[np.ndarray, " stock"],
    sector: Int[np.ndarray, " stock"],
    beta: Float[np.ndarray, " stock"],
    form: Target,
) -> tuple[Float[np.ndarray, "stock horizon"], Float[np.ndarray, "stock horizon"]]:
    """The labels in form `form` and the ranks of one day, float32.

    raw: the target; zscore: mean 0, std 1 (ddof 0); rank_gauss: Φ⁻¹((rank - ½)/n), average ranks; sector_neutral:
    target minus its sector's mean (stocks without a sector form one group), then zscore; beta_neutral: residual of the
    target on [1, past beta], then zscore. Ranks are average ranks of the labels, mean 0, std 1 (ddof 0): of the raw
    target in the first three forms, which have its order. A day whose targets, or whose residuals, are all equal has
    neither, except raw labels.
    """
    labels = np.full(targets.shape, np.nan, np.float32)
    ranks = np.full(targets.shape, np.nan, np.float32)
    for h in range(targets.shape[1]):
        known = np.flatnonzero(ranked & np.isfinite(targets[:, h]))
        y = targets[known, h].astype(np.float64)
        if len(y) == 0:
            continue
        if form in NEUTRAL:
            by_sector = form == "sector_neutral"
            neutral = _zscore(
                _group_residual(y, sector[known]) if by_sector else _residual(y, beta[known].astype(np.float64))
            )
            labels[known, h] = neutral
            if np.isfinite(neutral).all():
                ranks[known, h] = _zscore(_ranks(np.round(neutral, DECIMALS)))
            continue
        order = _ranks(y)
        if y.max() > y.min():  # else the ranks are undefined, not 0
            ranks[known, h] = _zscore(order)
        if form == "raw":
            labels[known, h] = y
        elif form == "rank_gauss":
            labels[known, h] = _normal_score((order - 0.5) / len(y)) if y.max() > y.min() else np.nan
        else:
            labels[known, h] = _zscore(y)
    return labels, ranks


def _ranks(y: Float[np.ndarray, " stock"]) -> Float[np.ndarray, " stock"]:
    return average_ranks(y, np.zeros(len(y), np.int64))


def undefined_targets(cache: Cache, data: DataSpec, days: Int64[np.ndarray, " day"]) -> dict[int, str]:
    """The horizons that have no metric on `days`, each with what is wrong with its targets on all of them."""
    columns = [cache.horizons.index(horizon) for horizon in data.horizons]
    known_once, differ, usable = (np.zeros(len(columns), np.bool_) for _ in range(3))
    for day in days:
        rows = cache.day_rows[cache.day_offsets[day] : cache.day_offsets[day + 1]]
        targets = cache.targets[rows[cache.valid[rows] & cache.in_universe[rows]]][:, columns]
        known = np.isfinite(targets)
        low = np.where(known, targets, np.inf).min(axis=0, initial=np.inf)
        high = np.where(known, targets, -np.inf).max(axis=0, initial=-np.inf)
        known_once |= known.any(axis=0)
        differ |= low < high
        usable |= (low < high) & (known.sum(axis=0) >= data.min_names)
        if usable.all():
            break
    return {
        horizon: "unknown"
        if not known_once[k]
        else "the same for all stocks of a day"
        if not differ[k]
        else f"known for fewer than data.min_names = {data.min_names} stocks a day"
        for k, horizon in enumerate(data.horizons)
        if not usable[k]
    }


def _normal_score(share: Float[np.ndarray, " stock"]) -> Float[np.ndarray, " stock"]:
    """Φ⁻¹ by torch, which is loaded anyway; importing scipy.special takes longer than opening a cache."""
    return np.asarray(torch.special.ndtri(torch.from_numpy(share)).numpy(), dtype=np.float64)


def _zscore(y: Float[np.ndarray, " stock"]) -> Float[np.ndarray, " stock"]:
    spread = y.std()
    return np.asarray((y - y.mean()) / spread if spread > 1e-12 else np.full(len(y), np.nan), dtype=np.float64)


def _group_residual(y: Float[np.ndarray, " stock"], group: Int[np.ndarray, " stock"]) -> Float[np.ndarray, " stock"]:
    """`y` minus the mean of its group."""
    number = group + 1
    return np.asarray(y - (np.bincount(number, y) / np.maximum(np.bincount(number), 1))[number], dtype=np.float64)


def _residual(y: Float[np.ndarray, " stock"], beta: Float[np.ndarray, " stock"]) -> Float[np.ndarray, " stock"]:
    """The residual of `y` on [1, beta]."""
    centred = beta - beta.mean()
    square = float(centred @ centred)
    slope = float(centred @ y) / square if square > 1e-12 else 0.0
    return np.asarray(y - y.mean() - slope * centred, dtype=np.float64)
