"""The differing settings of jobs, and the reasons why a comparison of them is not fair. Pure functions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Final

from pydantic import JsonValue

from api.http.errors import Refused
from api.http.schemas import FieldError
from atft.spec.metric import COMPARED, LONG_SHORT, RANK_IC, TEST, TRAIN, VAL, full_name
from jobs.states import JobState

Daily = Mapping[date, float | None]
SPLITS: Final = {TRAIN: "training", VAL: "validation", TEST: "test"}
METRICS: Final = tuple(metric.name for metric in COMPARED)
DEFAULT_METRIC: Final = full_name(TEST, RANK_IC)
EXAMPLE: Final = full_name(TEST, RANK_IC, 5)
_MEASURE: Final = re.compile(r"([a-z]{1,20})/([a-z_]{1,40})(?:@([0-9]{1,4})d)?", re.ASCII)
_LABELS: Final = ("name", "tags")
# Dataset, split and seed are compared by what ran (fingerprint, days, seeds); the others do not change a result.
_NOT_SETTINGS: Final = (
    *_LABELS, "dataset", "split", "seed", "resources", "baselines",
    "trainer.checkpoint_every_seconds", "trainer.timeout_seconds",
)  # fmt: skip
_MEASUREMENT_SETTINGS: Final = {"data.min_names": METRICS, "evaluation.quantile": (LONG_SHORT,)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A metric with daily values; without a horizon, the mean over a job's horizons."""

    split: str
    metric: str
    horizon: int | None

    def __str__(self) -> str:
        return full_name(self.split, self.metric, self.horizon)


def listed(names: Sequence[str], word: str) -> str:
    """`a, b and c`."""
    return f"{', '.join(names[:-1])} {word} {names[-1]}"


def invalid_query(parameter: str, detail: str) -> Refused:
    """A Refused (422) for one query parameter."""
    error = FieldError(detail=detail, code="invalid_request", parameter=parameter, location="query")
    return Refused(422, "invalid_request", f"{parameter}: {detail}", errors=[error])


def parse_measure(text: str) -> Measure:
    """Parse `SPLIT/NAME[@HORIZONd]`. Raises Refused (422) with the metrics that can be compared."""
    found = _MEASURE.fullmatch(text)
    if found is None:
        raise invalid_query("metric", f"a metric is SPLIT/NAME or SPLIT/NAME@HORIZONd, such as {EXAMPLE}")
    split, metric, horizon = found.groups()
    if split not in (VAL, TEST):
        raise invalid_query("metric", f"only val/ and test/ values are kept day by day, not {split}/")
    if metric not in METRICS:
        raise invalid_query(
            "metric",
            f"{metric} is not kept day by day, so it cannot be paired; {listed(METRICS, 'and')} can "
            f"({LONG_SHORT} is the daily return behind sharpe, spread and drawdown)",
        )
    return Measure(split=split, metric=metric, horizon=None if horizon is None else int(horizon))


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One job in a comparison.

    `days`: by split, from its evidence, None if it has none; `folds`: the days of each fold, empty for a run of one
    fold; `daily`: the metric's values, empty unless the job succeeded.
    """

    id: str
    label: str
    name: str | None
    state: JobState
    spec: Mapping[str, JsonValue]
    fingerprint: str | None
    days: Mapping[str, Sequence[str]] | None
    folds: Sequence[JsonValue]
    horizons: tuple[int, ...]
    daily: Daily


def differences(specs: Sequence[Mapping[str, JsonValue]]) -> dict[str, list[JsonValue]]:
    """Dotted field to its value in each spec, for fields that differ; without name and tags."""
    return {
        field: values for field, values in sorted(_differing_fields("", specs).items()) if not _is_under(field, _LABELS)
    }


def _differing_fields(prefix: str, nodes: Sequence[Mapping[str, JsonValue]]) -> dict[str, list[JsonValue]]:
    found: dict[str, list[JsonValue]] = {}
    for key in dict.fromkeys(key for node in nodes for key in node):
        values = [node.get(key) for node in nodes]
        inner = [value for value in values if isinstance(value, dict)]
        if len(inner) == len(values):
            found |= _differing_fields(f"{prefix}{key}.", inner)
        elif any(value != values[0] for value in values):
            found[f"{prefix}{key}"] = values
    return found


def _is_under(field: str, roots: Sequence[str]) -> bool:
    return any(field == root or field.startswith(f"{root}.") for root in roots)


def differing_settings(differing: Mapping[str, object]) -> list[str]:
    """The differing fields that are settings, which change the result."""
    return [field for field in differing if not _is_under(field, _NOT_SETTINGS)]


def unfairness_reasons(
    sides: Sequence[Side], differing: Mapping[str, Sequence[JsonValue]], measure: Measure
) -> list[str]:
    """Every reason why the comparison is not fair; empty if it is. One job alone is compared with a baseline."""
    reasons = [
        f"{side.label} is {side.state}: only a succeeded job has numbers to compare"
        for side in sides
        if side.state is not JobState.SUCCEEDED
    ]
    reasons += _data_reasons(sides)
    if len(sides) > 1:
        reasons += _setting_reasons(differing)
        reasons += [
            f"{field} differs: it changes how {measure.metric} is measured, not only the model"
            for field, metrics in _MEASUREMENT_SETTINGS.items()
            if field in differing and measure.metric in metrics
        ]
    if measure.split == VAL:
        reasons.append("the jobs were selected on these validation days, so that their values there are too good")
    return reasons + _series_reasons(sides, measure)


def _data_reasons(sides: Sequence[Side]) -> list[str]:
    reasons = []
    if len({side.fingerprint for side in sides}) > 1:
        listed = ", ".join(f"{side.fingerprint or 'unknown'} ({side.label})" for side in sides)
        reasons.append(f"the data differ: fingerprints {listed}")
    succeeded = [side for side in sides if side.state is JobState.SUCCEEDED]
    reasons += [f"{side.label} left no evidence of its days" for side in succeeded if not side.days]
    known = [(side, side.days) for side in succeeded if side.days]
    for split, title in SPLITS.items():
        spans = {side.label: tuple(days.get(split, ())) for side, days in known}
        if len(set(spans.values())) > 1:
            listed = ", ".join(f"{_span(days)} ({label})" for label, days in spans.items())
            reasons.append(f"the {title} days differ: {listed}")
    if known and any(side.folds != known[0][0].folds for side, _ in known):
        listed = ", ".join(f"{max(1, len(side.folds))} ({side.label})" for side, _ in known)
        reasons.append(f"the days are not cut into the same folds: {listed}")
    return reasons


def _span(days: Sequence[str]) -> str:
    return f"{len(days)} days {days[0]} to {days[-1]}" if days else "none"


def _setting_reasons(differing: Mapping[str, Sequence[JsonValue]]) -> list[str]:
    reasons, settings = [], differing_settings(differing)
    seeds = None if _nested_seeds(differing.get("seed", ())) else differing.get("seed")
    listed = ", ".join(map(str, seeds or ()))
    if not settings and seeds:
        reasons.append(
            f"the jobs differ in their seed only ({listed}): a seed is not a setting, so this is a repetition; "
            "it shows how much results vary by chance alone"
        )
    elif not settings:
        reasons.append("the jobs have the same settings: there is no setting whose effect could be seen")
    elif seeds:
        reasons.append(
            f"the seeds differ ({listed}): the effect of {settings[0]} cannot be separated from that of the seed"
        )
    if len(settings) > 1:
        reasons.append(
            f"{len(settings)} settings differ ({', '.join(settings)}): an effect cannot be traced to one of them"
        )
    return reasons


def _nested_seeds(seeds: Sequence[JsonValue]) -> bool:
    """Whether the seeds of each job are a subset of those of any job with more seeds; a training has one seed."""
    members = sorted((set(one) if isinstance(one, list) else {one} for one in seeds), key=len)
    return all(fewer <= more for fewer, more in pairwise(members))


def _series_reasons(sides: Sequence[Side], measure: Measure) -> list[str]:
    succeeded = [side for side in sides if side.state is JobState.SUCCEEDED]
    reasons = []
    for side in succeeded:
        if not side.daily:
            reasons.append(f"{side.label} has no daily values of {measure}")
        elif all(value is None for value in side.daily.values()):
            reasons.append(f"{measure} is undefined on every day of {side.label}")
    covered = [set(side.daily) for side in succeeded if side.daily]
    if len({frozenset(days) for days in covered}) > 1:
        counts = " and ".join(str(len(days)) for days in covered)
        common = len(set.intersection(*covered))
        reasons.append(f"the daily values are of different days: {counts}, {common} in common")
    if measure.horizon is None and len({side.horizons for side in sides}) > 1:
        reasons.append(f"{measure} is a mean over each job's own horizons, and these differ")
    return reasons
