"""The comparison of jobs by their daily values, with the statistics of `atft.metrics`. Pure functions.

The libraries of the statistics take seconds to load and only comparisons need them: hence the imports inside functions,
and `load_statistics`, which a server runs once it serves.
"""

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import combinations
from typing import Final
from uuid import UUID

import numpy as np

from api.comparisons.fairness import Daily, Measure, Side, differences, unfairness_reasons
from api.comparisons.schemas import ComparedJob, ComparedPair, Comparison
from api.jobs.schemas import Series
from jobs.states import JobState

MAX_SIDES_ALL_PAIRS: Final = 10
MIN_SET_SIDES: Final = 3
BASELINE: Final = "baseline:"
PARTIAL: Final = (
    "baseline {} was fitted on a part of the training days, as in earlier releases, or left no evidence of them: "
    "submit the training again for one that saw all"
)
_loading: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Baseline:
    """Daily values of a baseline; `fair` when it was fitted on every training day, or is not fitted at all."""

    daily: Daily
    fair: bool


def mean_by_day(series: Sequence[Daily]) -> dict[date, float | None]:
    """The mean over horizons by day; None where a horizon is undefined."""
    result: dict[date, float | None] = {}
    for day in sorted({day for one in series for day in one}):
        known = [value for one in series if (value := one.get(day)) is not None]
        result[day] = math.fsum(known) / len(known) if len(known) == len(series) else None
    return result


def load_statistics() -> None:
    """Load what a comparison needs, so that the first request does not wait for it. One thread at a time: two that
    import the same modules in different orders may see half of one.
    """
    with _loading:
        _compute_once()


@cache
def _compute_once() -> None:
    from atft.metrics import inference  # noqa: PLC0415

    series = np.sin(np.arange(40.0))
    inference.newey_west_t(series, 1)
    inference.model_confidence_set(np.stack([series, series**2, series**3], axis=1), 1)


def compare(
    sides: Sequence[Side], baselines: Mapping[str, Baseline], measure: Measure, curves: Mapping[UUID, Series]
) -> Comparison:
    """Compare jobs and baselines. Takes up to some seconds (50 jobs): do not call it in the event loop."""
    load_statistics()
    horizon = measure.horizon or max((h for side in sides for h in side.horizons), default=1)
    differing = differences([side.spec for side in sides])
    partial = [name for name, baseline in baselines.items() if not baseline.fair]
    reasons = unfairness_reasons(sides, differing, measure) + [PARTIAL.format(name) for name in partial]
    jobs = [_compared_job(side.id, side.name, side.state, side.daily, horizon) for side in sides]
    jobs += [_compared_job(BASELINE + name, name, None, one.daily, horizon) for name, one in baselines.items()]
    values = [side.daily for side in sides] + [one.daily for one in baselines.values()]
    labels = [side.label for side in sides] + list(baselines)
    all_pairs = len(jobs) <= MAX_SIDES_ALL_PAIRS
    pairs = combinations(range(len(jobs)), 2) if all_pairs else ((0, other) for other in range(1, len(jobs)))
    return Comparison(
        metric=str(measure),
        jobs=jobs,
        differences=differing,
        fair=not reasons,
        unfair_because=reasons,
        pairs=[
            _compared_pair(
                (jobs[a].id, jobs[b].id),
                (labels[a], labels[b]),
                values[a],
                values[b],
                horizon,
                no_verdict=next((PARTIAL.format(n) for n in partial if BASELINE + n in (jobs[a].id, jobs[b].id)), None),
            )
            for a, b in pairs
        ],
        model_confidence_set=_confidence_set([job.id for job in jobs], values, horizon),
        curves=dict(curves),
    )


def _compared_job(side_id: str, name: str | None, state: JobState | None, daily: Daily, horizon: int) -> ComparedJob:
    from atft.metrics import inference, rank  # noqa: PLC0415

    series = np.array([math.nan if daily[day] is None else daily[day] for day in sorted(daily)], dtype=np.float64)
    average = rank.average(series)
    t = inference.newey_west_t(series, horizon)
    return ComparedJob(
        id=side_id, name=name, mean=average.mean, std=average.std, ic_t=t, num_days=average.num_days, state=state
    )


def _compared_pair(
    ids: tuple[str, str], labels: tuple[str, str], a: Daily, b: Daily, horizon: int, *, no_verdict: str | None
) -> ComparedPair:
    """`no_verdict`: why there is no verdict, whatever the difference is."""
    from atft.metrics.inference import paired_difference  # noqa: PLC0415

    days = sorted({*a, *b})
    test = paired_difference(
        [a.get(day) for day in days], [b.get(day) for day in days], horizon, a_name=labels[0], b_name=labels[1]
    )
    return ComparedPair(
        a=ids[0],
        b=ids[1],
        mean_difference=test.mean_difference,
        t=test.t,
        degrees_of_freedom=test.degrees_of_freedom,
        p_value=test.p_value,
        ci95=test.ci95,
        num_days=test.num_days,
        num_dropped=test.num_dropped,
        verdict=test.verdict if no_verdict is None else f"no verdict: {no_verdict}",
    )


def _confidence_set(ids: Sequence[str], values: Sequence[Daily], horizon: int) -> list[str] | None:
    """The model confidence set over days on which all sides are defined; None below three sides."""
    from atft.metrics.inference import model_confidence_set  # noqa: PLC0415

    if len(ids) < MIN_SET_SIDES:
        return None
    rows = [[daily.get(day) for daily in values] for day in sorted(set[date].intersection(*map(set, values)))]
    table = np.array([row for row in rows if None not in row], dtype=np.float64).reshape(-1, len(ids))
    kept = model_confidence_set(table, horizon)
    return None if kept is None else [ids[column] for column in kept]
