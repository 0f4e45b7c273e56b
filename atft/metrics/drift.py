"""Drift and collapse of scores: population stability index, standard-deviation ratio, share of distinct scores."""

import numpy as np
from jaxtyping import Float, Int

from atft.metrics.rank import order_within_days

Values = Float[np.ndarray, " sample"]
Days = Int[np.ndarray, " sample"]

PSI_WARNING = 0.25
UNIQUE_SHARE = 0.5
SMALLEST_STD_RATIO = 1e-6


def psi(reference: Float[np.ndarray, " other"], scores: Values, *, bins: int = 10) -> float | None:
    """Population stability index `Σ (p - q) ln(p/q)` over the reference's quantile bins.

    None when one side is empty or the reference constant. A bin that one side leaves empty counts as half a sample,
    so that the index stays finite.
    """
    if len(reference) == 0 or len(scores) == 0:
        return None
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))
    if reference.min() == reference.max():
        return None
    expected = np.bincount(np.searchsorted(edges, reference), minlength=len(edges) + 1)
    actual = np.bincount(np.searchsorted(edges, scores), minlength=len(edges) + 1)
    p, q = np.maximum(actual, 0.5) / len(scores), np.maximum(expected, 0.5) / len(reference)
    return float(np.sum((p - q) * np.log(p / q)))


def daily_std_ratio(scores: Values, targets: Values, day: Days, *, num_days: int) -> Float[np.ndarray, " day"]:
    """std(scores) / std(targets) of each day (ddof 0); NaN on days without samples or with constant targets."""
    score, target = _daily_std(scores, day, num_days), _daily_std(targets, day, num_days)
    ratio = np.full(num_days, np.nan)
    np.divide(score, target, out=ratio, where=target > 0)
    return ratio


def daily_unique_share(scores: Values, day: Days, *, num_days: int) -> Float[np.ndarray, " day"]:
    """Number of distinct scores over number of scores of each day; NaN on days without samples."""
    order = order_within_days(scores, day)
    sorted_scores, sorted_day = scores[order], day[order]
    first = np.ones(len(scores), dtype=bool)
    first[1:] = (sorted_scores[1:] != sorted_scores[:-1]) | (sorted_day[1:] != sorted_day[:-1])
    count = np.bincount(day, minlength=num_days)
    unique = np.bincount(sorted_day, first, num_days)
    share = np.full(num_days, np.nan)
    np.divide(unique, count, out=share, where=count > 0)
    return share


def degenerate(unique_share: Float[np.ndarray, " day"], std_ratio: Float[np.ndarray, " day"]) -> bool:
    """Whether on every day with samples fewer than half of the scores are distinct, or their std is below 1e-6 of the
    targets'.
    """
    seen = np.isfinite(unique_share)
    bad = (unique_share < UNIQUE_SHARE) | (std_ratio < SMALLEST_STD_RATIO)
    return bool(seen.any() and bad[seen].all())


def _daily_std(values: Values, day: Days, num_days: int) -> Float[np.ndarray, " day"]:
    wide = values.astype(np.float64)
    count = np.maximum(np.bincount(day, minlength=num_days), 1)
    centred = wide - (np.bincount(day, wide, num_days) / count)[day]
    return np.sqrt(np.bincount(day, centred * centred, num_days) / count)
