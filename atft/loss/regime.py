"""Day weights by market regime (volatility and correlation): each regime gets the same total weight in training.

A day's regime is computed from returns up to that day only; the regimes' frequencies, from the training days only.
"""

import bisect

import numpy as np
from jaxtyping import Float, Int

from atft.data.cache.reader import Cache

Daily = Float[np.ndarray, " day"]
VOLATILITY_DAYS, CORRELATION_DAYS = 20, 60
LEVELS = 3  # low, middle, high
MIN_WEIGHT, MAX_WEIGHT = 0.5, 2.0


def day_weights(cache: Cache, train: Int[np.ndarray, " train"]) -> Daily:
    """A weight for each of the cache's days: within [.5, 2] and of mean 1 over the training days, 1 on all others.

    The weights of each regime have the same sum, as far as the bounds allow.
    """
    weights = np.ones(len(cache.days))
    weights[train] = balanced_weights(regimes(*daily_return_moments(cache))[train])
    return weights


def daily_return_moments(cache: Cache) -> tuple[Daily, Daily]:
    """Mean and mean square of the returns of each day's universe; NaN on days without known returns."""
    known = cache.valid & cache.in_universe & np.isfinite(cache.returns)
    day, returns = cache.day_index[known], cache.returns[known].astype(np.float64)
    count = np.bincount(day, minlength=len(cache.days)).astype(np.float64)
    count[count == 0] = np.nan
    mean, square = (np.bincount(day, values, len(cache.days)) / count for values in (returns, returns**2))
    return mean, square


def regimes(mean: Daily, square: Daily) -> Int[np.ndarray, " day"]:
    """Regime 0 … 8 of each day: three levels of volatility times three of correlation, terciles of the days so far.

    Volatility is the market's root mean square return over 20 days. Correlation is the market's mean square return over
    the stocks', over 60 days (with equal variances, the mean pairwise correlation).
    """
    market, stocks = np.nan_to_num(mean) ** 2, np.nan_to_num(square)
    volatility = _trailing(market, VOLATILITY_DAYS)
    common, total = _trailing(market, CORRELATION_DAYS), _trailing(stocks, CORRELATION_DAYS)
    correlation = np.divide(common, total, out=np.zeros(len(total)), where=total > 0)
    level: Int[np.ndarray, " day"] = LEVELS * _level(volatility) + _level(correlation)
    return level


def balanced_weights(regime: Int[np.ndarray, " day"]) -> Daily:
    """Weights that give every regime that occurs the same sum, bounded to [.5, 2], mean 1."""
    if len(regime) == 0:
        return np.ones(0)
    count = np.bincount(regime)
    wanted = 1.0 / count[regime]
    low, high = MIN_WEIGHT / wanted.max(), MAX_WEIGHT / wanted.min()
    for _ in range(200):  # bisection: the mean of the bounded weights grows with the scale
        scale = (low + high) / 2
        if np.clip(scale * wanted, MIN_WEIGHT, MAX_WEIGHT).mean() < 1:
            low = scale
        else:
            high = scale
    weights: Daily = np.clip((low + high) / 2 * wanted, MIN_WEIGHT, MAX_WEIGHT)
    return weights


def _trailing(values: Daily, days: int) -> Daily:
    """Trailing mean over `days` values, over fewer at the beginning."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    stop = np.arange(1, len(total))
    start = np.maximum(0, stop - days)
    mean: Daily = (total[stop] - total[start]) / (stop - start)
    return mean


def _level(values: Daily) -> Int[np.ndarray, " day"]:
    """Tercile (0, 1, 2) of each value among the values before it."""
    seen: list[float] = []
    levels = np.zeros(len(values), np.int64)
    for day, value in enumerate(values):
        levels[day] = LEVELS * bisect.bisect_left(seen, value) // (len(seen) + 1)
        bisect.insort(seen, value)
    return levels
