"""Market-wide columns, which have one value per day: derived from the panel or given by the user, normalised with past
values only.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int

from atft.data.schema import Days

WINDOW, MIN_DAYS, CLIP = 252, 20, 5.0
STALE_DAYS = 7  # calendar days after which an older value of a market series counts as missing
DERIVED = {
    "market_return_1": "mean of the day's returns (clipped to ±50 %) of valid stocks",
    "market_return_5": "sum of market_return_1 over 5 days",
    "market_return_20": "sum of market_return_1 over 20 days",
    "market_volatility_20": "standard deviation of market_return_1 over 20 days",
    "market_dispersion": "standard deviation of the day's returns (clipped to ±50 %) across valid stocks",
    "market_breadth": "share of valid stocks with a positive return",
}
Series = npt.NDArray[np.float64]


def normalise_by_past(values: Float[np.ndarray, " day"]) -> Float[np.ndarray, " day"]:
    """(x_t - mean) / std over the last 252 days up to t, clipped to ±5; 0 where x_t is unknown, with fewer than 20
    days, or without spread.
    """
    past = trailing(values, WINDOW)
    known = np.isfinite(past)
    count = np.maximum(known.sum(axis=1), 1)
    mean = np.where(known, past, 0.0).sum(axis=1) / count
    spread = np.sqrt((np.where(known, past - mean[:, None], 0.0) ** 2).sum(axis=1) / count)
    usable = np.isfinite(values) & (count >= MIN_DAYS) & (spread > 1e-12 * np.abs(mean))
    score = np.divide(values - mean, spread, out=np.zeros(len(values)), where=usable)
    return np.asarray(np.clip(score, -CLIP, CLIP), dtype=np.float64)


def derived_columns(
    returns: Float[np.ndarray, " row"],
    valid: Bool[np.ndarray, " row"],
    day_index: Int[np.ndarray, " row"],
    num_days: int,
) -> dict[str, Series]:
    """The DERIVED columns by name, [day], not yet normalised; unknown is NaN."""
    known = valid & np.isfinite(returns)
    r, d = np.clip(returns[known].astype(np.float64), -0.5, 0.5), day_index[known]
    count = np.bincount(d, minlength=num_days).astype(np.float64)
    count[count == 0] = np.nan
    mean = np.bincount(d, r, minlength=num_days) / count
    spread = np.sqrt(np.bincount(d, (r - mean[d]) ** 2, minlength=num_days) / count)
    breadth = np.bincount(d, (r > 0).astype(np.float64), minlength=num_days) / count
    return {
        "market_return_1": mean,
        "market_return_5": trailing(mean, 5).sum(axis=1),
        "market_return_20": trailing(mean, 20).sum(axis=1),
        "market_volatility_20": trailing(mean, 20).std(axis=1),
        "market_dispersion": spread,
        "market_breadth": breadth,
    }


def trailing(values: Float[np.ndarray, " day"], length: int) -> Float[np.ndarray, "day length"]:
    """The last `length` values up to each day; before the start they are NaN."""
    padded = np.concatenate([np.full(length - 1, np.nan), values])
    return np.lib.stride_tricks.sliding_window_view(padded, length)


def user_columns(series: Mapping[str, tuple[Days, Series]], days: Days) -> dict[str, Series]:
    """Level and 1- and 20-day change of each of the user's series on the trading days, by the latest value up to the
    day.

    They are of asinh(value): for large values the change is a log return, near 0 a difference. Choosing between the two
    by the sign of the whole series would use its future.
    """
    result: dict[str, Series] = {}
    for name, (dates, values) in series.items():
        at = np.searchsorted(dates, days, side="right") - 1
        fresh = (at >= 0) & ((days - dates[np.maximum(at, 0)]).astype(np.int64) <= STALE_DAYS)
        level = np.where(fresh, values[np.maximum(at, 0)], np.nan)
        scale = np.arcsinh(level)
        result[f"{name}_level"] = scale
        for d in (1, 20):
            if len(days) > d:
                result[f"{name}_change_{d}"] = np.concatenate([np.full(d, np.nan), scale[d:] - scale[:-d]])
    return result
