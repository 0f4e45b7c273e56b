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
    return np.asarray(daily_rank_ics(features, targets[:, None])[0])


def daily_rank_ics(
    features: Float[np.ndarray, "row feature"], targets: Float[np.ndarray, "row target"]
) -> Float[np.ndarray, "target feature"]:
    """`daily_rank_ic` with each of several targets; those that are known of the same rows share the features' ranks."""
    known = np.isfinite(targets)
    result = np.full((targets.shape[1], features.shape[1]), np.nan)
    alike: dict[bytes, list[int]] = {}
    for k in range(targets.shape[1]):
        alike.setdefault(known[:, k].tobytes(), []).append(k)
    for same in alike.values():
        rows = known[:, same[0]]
        if rows.sum() < MIN_NAMES:
            continue
        order, ranks = _ordered_ranks(np.ascontiguousarray(features[rows].T))
        y = stats.rankdata(targets[rows][:, same], axis=0).T
        y -= y.mean(axis=1, keepdims=True)
        spread = (ranks**2).sum(axis=1)
        for k, centred in zip(same, y, strict=True):
            scale = np.sqrt(spread * (centred**2).sum())
            product = (ranks * centred[order]).sum(axis=1)
            result[k] = np.divide(product, scale, out=np.full(len(scale), np.nan), where=scale > 0)
    return result


def _ordered_ranks(
    x: Float[np.ndarray, "feature row"],
) -> tuple[Int[np.ndarray, "feature row"], Float[np.ndarray, "feature row"]]:
    """The order of each feature's values and, in that order, their average ranks less the mean rank. Several times
    faster than scipy's rankdata, which takes the features one by one.
    """
    order = np.argsort(x, axis=1)
    ordered = np.take_along_axis(x, order, axis=1)
    at = np.arange(x.shape[1], dtype=np.int32)
    changes = ordered[:, 1:] != ordered[:, :-1]
    first, last = np.zeros(x.shape, np.int32), np.full(x.shape, x.shape[1] - 1, np.int32)
    first[:, 1:] = np.where(changes, at[1:], 0)
    last[:, :-1] = np.where(changes, at[:-1], x.shape[1])
    np.maximum.accumulate(first, axis=1, out=first)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    return order, (first + last) / 2.0 - (x.shape[1] - 1) / 2.0


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
        ic[n] = daily_rank_ics(block, targets[rows])
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
