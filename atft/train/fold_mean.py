"""Metrics of several folds: names with the fold's number, and means over folds.

A mean is None when any fold's value is undefined: a mean over fewer folds would not be comparable.
"""

import math
from collections.abc import Mapping, Sequence

from atft.events import DailySeries

Values = Mapping[str, float | None]


def with_fold_names(values: Values, fold: int, folds: int) -> dict[str, float | None]:
    """`val/rank_ic` of the fold numbered `fold` from 0 is `val.1/rank_ic`; a run of one fold keeps its names."""
    if folds == 1:
        return dict(values)
    return {
        f"{part[0]}.{fold + 1}/{part[2]}": value for name, value in values.items() for part in [name.partition("/")]
    }


def mean(values: Sequence[float | None]) -> float | None:
    """The mean; None when a value is None or there is none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def mean_values(folds: Sequence[Values]) -> dict[str, float | None]:
    """Mean over folds of every metric that any fold has."""
    names = dict.fromkeys(name for values in folds for name in values)
    return {name: mean([values.get(name) for values in folds]) for name in names}


def mean_daily(folds: Sequence[Sequence[DailySeries]]) -> list[DailySeries]:
    """One series by metric, split and horizon: a day's value is the mean over the folds that evaluated that day.

    Folds without a common day, as test days of walk-forward and k-fold, are thus concatenated.
    """
    found: dict[tuple[str, str, int], dict[str, list[float | None]]] = {}
    for one in (one for series in folds for one in series):
        days = found.setdefault((one.name, one.split, one.horizon), {})
        for day, value in zip(one.days, one.values, strict=True):
            days.setdefault(day, []).append(value)
    return [
        DailySeries.model_validate(
            {
                "name": name,
                "split": split,
                "horizon": horizon,
                "days": sorted(days),
                "values": [mean(days[day]) for day in sorted(days)],
            }
        )
        for (name, split, horizon), days in found.items()
    ]
