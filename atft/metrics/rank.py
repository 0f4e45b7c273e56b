"""Daily correlations of scores with targets, and their averages. Undefined values are NaN, never 0."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Float, Int

Values = Float[np.ndarray, " sample"]
Days = Int[np.ndarray, " sample"]
Daily = Float[np.ndarray, " day"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Average:
    """Mean, std (ddof 1), mean/std and share above 0 of the defined days; None with too few days or no variation."""

    mean: float | None
    std: float | None
    ratio: float | None
    share_positive: float | None
    num_days: int
    num_undefined_days: int


def daily_ic(scores: Values, targets: Values, day: Days, *, num_days: int, min_names: int) -> Daily:
    """Information coefficient (IC): Pearson correlation of each day.

    NaN on days with fewer than `min_names` samples, constant scores or constant targets.
    Inputs are finite; `day` lies in 0 … num_days-1, in any order.
    """
    count = np.bincount(day, minlength=num_days)
    size = np.maximum(count, 1)
    a, b = scores.astype(np.float64), targets.astype(np.float64)
    varies = _varies(a, day, num_days) & _varies(b, day, num_days)
    a = a - (np.bincount(day, a, num_days) / size)[day]
    b = b - (np.bincount(day, b, num_days) / size)[day]
    squares = np.bincount(day, a * a, num_days), np.bincount(day, b * b, num_days)
    defined = varies & (count >= min_names) & (squares[0] > 0) & (squares[1] > 0)
    scale = np.sqrt(squares[0], where=defined, out=np.ones(num_days)) * np.sqrt(
        squares[1], where=defined, out=np.ones(num_days)
    )
    correlation = np.clip(np.bincount(day, a * b, num_days) / scale, -1.0, 1.0)
    return np.where(defined, correlation, np.nan)


def daily_rank_ic(scores: Values, targets: Values, day: Days, *, num_days: int, min_names: int) -> Daily:
    """Spearman correlation of each day: `daily_ic` of average ranks."""
    return daily_ic(
        average_ranks(scores, day), average_ranks(targets, day), day, num_days=num_days, min_names=min_names
    )


def average_ranks(values: Values, day: Days) -> Values:
    """Ranks 1 … n within each day; equal values share the mean of their ranks."""
    if len(values) == 0:
        return np.empty(0)
    order = order_within_days(values, day)
    sorted_values, sorted_day = values[order], day[order]
    new_day = np.r_[True, sorted_day[1:] != sorted_day[:-1]]
    new_group = new_day | np.r_[True, sorted_values[1:] != sorted_values[:-1]]
    first_of_day = np.flatnonzero(new_day)[np.cumsum(new_day) - 1]
    starts = np.flatnonzero(new_group)
    stops = np.r_[starts[1:], len(values)]
    group = np.cumsum(new_group) - 1
    ranks = np.empty(len(values))
    ranks[order] = ((starts + stops - 1) / 2)[group] - first_of_day + 1
    return ranks


def uniform_ranks(values: Float[np.ndarray, "sample column"], day: Days) -> Float[np.ndarray, "sample column"]:
    """Uniform ranks of each column within its day: (average rank - ½) / samples of the day, in (0, 1) with mean ½.

    Values are finite.
    """
    size = np.bincount(day)[day]
    columns = [(average_ranks(column, day) - 0.5) / size for column in values.T]
    return np.stack(columns, axis=1)


def mean_of_ranks(
    members: Sequence[Float[np.ndarray, "sample column"]], day: Days
) -> Float[np.ndarray, "sample column"]:
    """The scores of an ensemble: the mean over its members, in their order, of the uniform ranks of their scores."""
    return reduce(operator.add, (uniform_ranks(scores, day) for scores in members)) / len(members)


def order_within_days(values: Values, day: Days) -> Days:
    """Indices that sort the samples by day, then by value (unstable); several times faster than lexsort."""
    order = np.argsort(values)
    by_value = day[order]
    narrow = by_value.astype(np.uint16) if len(day) and int(day.max()) < 2**16 else by_value
    sorted_order: Days = order[np.argsort(narrow, kind="stable")]
    return sorted_order


def average(daily: Daily) -> Average:
    values = daily[np.isfinite(daily)]
    num_undefined = len(daily) - len(values)
    if len(values) == 0:
        return Average(
            mean=None, std=None, ratio=None, share_positive=None, num_days=0, num_undefined_days=num_undefined
        )
    mean = float(values.mean())
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    # The std of equal values is rounding error: the ratio would be huge and meaningless.
    ratio = mean / std if std is not None and std > 1e-12 * max(1.0, abs(mean)) else None
    share = float((values > 0).mean())
    return Average(
        mean=mean, std=std, ratio=ratio, share_positive=share, num_days=len(values), num_undefined_days=num_undefined
    )


def _varies(values: Values, day: Days, num_days: int) -> np.ndarray:
    lowest, highest = np.full(num_days, np.inf), np.full(num_days, -np.inf)
    np.minimum.at(lowest, day, values)
    np.maximum.at(highest, day, values)
    return highest > lowest
