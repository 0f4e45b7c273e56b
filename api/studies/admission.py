"""Checks of a study against its dataset before it is stored, and the plan of a dry run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from pydantic import ValidationError
from sqlalchemy.orm import Session

from api.http.errors import Refused, invalid
from api.studies.schemas import StudyPlan
from api.training import admission
from atft.spec.data import SplitSpec
from atft.spec.job import TrainSpec
from atft.spec.space import CategoricalDimension, Dimension, Scalar, merge_choices
from atft.spec.study import HpoSpec
from jobs.broker.queue import CONTROL
from jobs.record import queries

BATCH_SIZE = "trainer.batch_size"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmittedStudy:
    """A checked study with equal choices merged; `base` is its base spec, checked as a training job."""

    spec: HpoSpec
    base: admission.AdmittedRun
    warnings: list[str]


def admit(session: Session, spec: HpoSpec) -> AdmittedStudy:
    """Check a study, its base and the extremes of its space. Raises Refused (422) naming the wrong field."""
    try:
        base = admission.admit(session, spec.base)
    except Refused as error:
        raise admission.prefix_pointers(error, "/base") from error
    spec, warnings = merge_batch_sizes(spec, base.stocks_per_day)
    for side in ("low", "high"):
        params = spec.extreme(side)
        try:
            admission.admit(session, spec.trial_spec(params))
        except ValidationError as wrong:
            messages = "; ".join(str(error["msg"]) for error in wrong.errors())
            message = f"the {side} extreme of the space, {params}, is no training job: {messages}"
            raise invalid("/space", message, "invalid_space") from wrong
        except Refused as error:
            raise _point_into_space(error, spec.space) from error
    folds, pruner = spec.base.split.num_splits, spec.pruner.name
    if folds > 1 and pruner != "none":
        warnings.append(
            f"a trial of {folds} folds has a value only at its end: the pruner {pruner} will cut none short"
        )
    warnings += selection_bias_warnings(spec.base, spec.base.split)
    warnings += [*base.warnings, *admission.unwatched_queue_warnings(CONTROL, queries.live_queues(session))]
    return AdmittedStudy(spec=spec, base=base, warnings=warnings)


def selection_bias_warnings(spec: TrainSpec, study_split: SplitSpec) -> list[str]:
    """A warning if days on which a study with `study_split` chose parameters may be test days of `spec`."""
    if spec.split != study_split:
        return ["the split is not the study's: days that the parameters were chosen on may be among the test days"]
    if spec.split.num_splits > 1:
        return [
            "of several folds one's validation days are test days of another: parameters that are chosen on the former "
            "make the test figures of these folds look better than they are"
        ]
    return []


def _point_into_space(error: Refused, space: Mapping[str, Dimension]) -> Refused:
    """A copy of an extreme's refusal with its pointers moved to the keys of the space."""
    errors = []
    for one in error.errors:
        key = (one.pointer or "").lstrip("/").replace("/", ".")
        pointer = f"/space/{key}" if key in space else "/space"
        errors.append(one.model_copy(update={"pointer": pointer}))
    return Refused(error.status_code, error.code, str(error.detail), errors=errors)


def merge_batch_sizes(spec: HpoSpec, stocks_per_day: int) -> tuple[HpoSpec, list[str]]:
    """Merge batch sizes that give the same number of days per step, since they are the same run; and the warnings.

    Raises Refused if all of them give the same number.
    """
    dimension = spec.space.get(BATCH_SIZE)
    if dimension is None:
        return spec, []

    def days(size: Scalar) -> int:
        return max(1, round(float(size or 0) / stocks_per_day))

    pointer = f"/space/{BATCH_SIZE}"
    ends = {days(size) for size in dimension.extremes()}
    if len(ends) == 1:
        message = (
            f"{BATCH_SIZE} has no effect: every value makes a step of {ends.pop()} days of {stocks_per_day} stocks"
        )
        raise invalid(pointer, message, "inert_parameter")
    if not isinstance(dimension, CategoricalDimension):
        return spec, []
    merged, messages = merge_choices(dimension, {size: days(size) for size in dimension.choices})
    kept = {days(size): size for size in merged.choices}
    points = [
        {key: kept[days(value)] if key == BATCH_SIZE else value for key, value in point.items()}
        for point in spec.enqueued_points
    ]
    points = [point for at, point in enumerate(points) if len(point) < len(spec.space) or point not in points[:at]]
    body = spec.model_dump(mode="json") | {"enqueue": points}
    body["space"][BATCH_SIZE] = merged.model_dump(mode="json")
    return HpoSpec.model_validate(body), [f"{BATCH_SIZE}: {line}" for line in messages]


def plan(session: Session, study: AdmittedStudy, days: Sequence[date] | None) -> StudyPlan:
    """The plan of a dry run, with the plan of one trial. `days` are the dataset's, if known."""
    spec = study.spec
    trial = admission.plan(session, spec.trial_spec({}), replace(study.base, warnings=[]), days)
    rounds = math.ceil(spec.num_trials / spec.parallelism)
    return StudyPlan(
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest(),
        warnings=study.warnings,
        num_trials=spec.num_trials,
        low=dict(spec.extreme("low")),
        high=dict(spec.extreme("high")),
        trial=trial,
        estimated_seconds=None if trial.estimated_seconds is None else round(trial.estimated_seconds * rounds, 1),
    )
