"""Features that know the future: named like a target, or ranking the next returns better than honest ones do."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from atft.data.schema import TARGET_LIKE

LIMIT = 0.2  # mean daily |RankIC|; RankIC .08 on a real market is at the top of the literature
STANDARD_ERRORS = 3.0  # a small or short panel reaches ±.2 by chance: the mean must also be this far from 0
MAX_DAYS, MAX_CELLS, MIN_NAMES = 100, 100_000_000, 5


def named_like_targets(names: Sequence[str]) -> list[str]:
    """The names that say forward, future, target, label, next return, …"""
    return [n for n in names if TARGET_LIKE.search(n)]


def daily_rank_ic(
    features: Float[np.ndarray, "row feature"], targets: Float[np.ndarray, " row"]
) -> Float[np.ndarray, " feature"]:
    """Spearman correlation of each feature with the target on one day, average ranks; NaN where either is constant or
    fewer than 5 targets are known.
    """
    known = np.isfinite(targets)
    if known.sum() < MIN_NAMES:
        return np.full(features.shape[1], np.nan)
    x = stats.rankdata(features[known], axis=0)
    y = stats.rankdata(targets[known])
    x -= x.mean(axis=0)
    y -= y.mean()
    scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum())
    return np.asarray(np.divide(y @ x, scale, out=np.full(x.shape[1], np.nan), where=scale > 0), dtype=np.float64)


def suspects(
    features: Float[np.ndarray, "row feature"],
    targets: Float[np.ndarray, "row horizon"],
    ranked: Bool[np.ndarray, " row"],
    day_offsets: Int[np.ndarray, " day1"],
    day_rows: Int[np.ndarray, " row"],
    names: Sequence[str],
    horizons: Sequence[int],
) -> dict[str, object]:
    """The leak report by values: some 100 days spread over the panel, all horizons, the worst horizon of each feature.

    The standard error allows for overlapping labels: std·√(h / number of days), days being `step` apart.
    """
    num_days = len(day_offsets) - 1
    per_day = max(1, len(day_rows) // max(1, num_days) * max(1, len(names)))
    wanted = int(np.clip(MAX_CELLS // per_day, 30, MAX_DAYS))
    step = max(1, num_days // wanted)
    days = np.arange(0, num_days, step)
    ic = np.full((len(days), len(horizons), len(names)), np.nan)
    for n, day in enumerate(days):
        rows = day_rows[day_offsets[day] : day_offsets[day + 1]]
        rows = rows[ranked[rows]]
        block = np.asarray(features[rows], dtype=np.float32)
        for k in range(len(horizons)):
            ic[n, k] = daily_rank_ic(block, targets[rows, k])
    count = np.isfinite(ic).sum(axis=0)
    mean = np.divide(np.nansum(ic, axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)
    square = np.divide(
        np.nansum((ic - mean) ** 2, axis=0), count - 1, out=np.full(count.shape, np.inf), where=count > 1
    )
    overlap = np.maximum(1.0, np.asarray(horizons, dtype=np.float64) / step)[:, None]
    error = np.sqrt(square * overlap / np.maximum(count, 1))
    suspected = (np.abs(mean) > LIMIT) & (np.abs(mean) > STANDARD_ERRORS * error)
    strength = np.nan_to_num(np.abs(mean), nan=-1.0)
    worst = strength.argmax(axis=0)
    order = np.argsort(-strength.max(axis=0), kind="stable").tolist()

    def told(k: int, j: int) -> dict[str, object]:
        return {
            "feature": names[j],
            "horizon": horizons[k],
            "rank_ic": round(float(mean[k, j]), 6) if np.isfinite(mean[k, j]) else None,
        }

    flagged = np.where(suspected, strength, -1.0).argmax(axis=0)
    return {
        "limit": LIMIT,
        "num_days": len(days),
        "suspected": [told(int(flagged[j]), j) for j in order if suspected[:, j].any()],
        "strongest": [told(int(worst[j]), j) for j in order[:10]],
    }
