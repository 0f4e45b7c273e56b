"""What a study needs before it is stored, what its rows show, and its best trial as a training job."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.http.errors import Refused, from_pydantic, invalid
from api.studies.schemas import BestView, StudyPlan, TrialView
from api.training import admission
from atft.spec.data import SplitSpec
from atft.spec.job import TrainSpec
from atft.spec.study import CategoricalDimension, Dimension, HpoSpec, Scalar, apply, merged_choices, put
from jobs.broker.queue import CONTROL
from jobs.db.tables import Job, Metric
from jobs.record import queries
from jobs.settings import Settings
from jobs.states import JobKind, JobState

BATCH_SIZE = "trainer.batch_size"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmittedStudy:
    """A study that fits its dataset, its equal choices merged; `base` is its base admitted as a training job."""

    spec: HpoSpec
    base: admission.Admitted
    warnings: list[str]


def admit(session: Session, spec: HpoSpec) -> AdmittedStudy:
    """Raises Refused (422) naming the field that does not fit, also when an extreme of the space is no training job."""
    try:
        base = admission.admit(session, spec.base)
    except Refused as error:
        raise admission.moved(error, "/base") from error
    spec, warnings = merge_batch_sizes(spec, base.names_a_day)
    for end in ("low", "high"):
        params = spec.extreme(end)
        try:
            admission.admit(session, spec.trial_spec(params))
        except ValidationError as wrong:
            said = "; ".join(str(error["msg"]) for error in wrong.errors())
            message = f"the {end} extreme of the space, {params}, is no training job: {said}"
            raise invalid("/space", message, "invalid_space") from wrong
        except Refused as error:
            raise _moved(error, spec.space) from error
    folds, pruner = spec.base.split.num_splits, spec.pruner.name
    if folds > 1 and pruner != "none":
        warnings.append(
            f"a trial of {folds} folds has a value only at its end: the pruner {pruner} will cut none short"
        )
    warnings += chosen_on_test_days(spec.base, spec.base.split)
    warnings += [*base.warnings, *admission.unwatched(CONTROL, queries.live_queues(session))]
    return AdmittedStudy(spec=spec, base=base, warnings=warnings)


def chosen_on_test_days(spec: TrainSpec, searched: SplitSpec) -> list[str]:
    """A warning where days that a search on the split `searched` has chosen by may be test days of `spec`."""
    if spec.split != searched:
        return ["the split is not the search's: days that the parameters were chosen on may be among the test days"]
    if spec.split.num_splits > 1:
        return [
            "of several folds one's validation days are test days of another: parameters that are chosen on the former "
            "make the test figures of these folds look better than they are"
        ]
    return []


def _moved(error: Refused, space: Mapping[str, Dimension]) -> Refused:
    """The same refusal of an extreme, its pointers into the space."""
    errors = []
    for one in error.errors:
        key = (one.pointer or "").lstrip("/").replace("/", ".")
        place = f"/space/{key}" if key in space else "/space"
        errors.append(one.model_copy(update={"pointer": place}))
    return Refused(error.status_code, error.code, str(error.detail), errors=errors)


def merge_batch_sizes(spec: HpoSpec, names_a_day: int) -> tuple[HpoSpec, list[str]]:
    """Batch sizes of one number of days a step are one run: their choices become one. Raises Refused when none is left
    to choose from.
    """
    dimension = spec.space.get(BATCH_SIZE)
    if dimension is None:
        return spec, []

    def days(size: Scalar) -> int:
        return max(1, round(float(size or 0) / names_a_day))

    pointer = f"/space/{BATCH_SIZE}"
    ends = {days(size) for size in dimension.extremes()}
    if len(ends) == 1:
        message = f"{BATCH_SIZE} has no effect: every value makes a step of {ends.pop()} days of {names_a_day} stocks"
        raise invalid(pointer, message, "inert_parameter")
    if not isinstance(dimension, CategoricalDimension):
        return spec, []
    merged, said = merged_choices(dimension, {size: days(size) for size in dimension.choices})
    kept = {days(size): size for size in merged.choices}
    points = [
        {key: kept[days(value)] if key == BATCH_SIZE else value for key, value in point.items()}
        for point in spec.enqueue
    ]
    body = spec.model_dump(mode="json") | {"enqueue": points}
    body["space"][BATCH_SIZE] = merged.model_dump(mode="json")
    return HpoSpec.model_validate(body), [f"{BATCH_SIZE}: {line}" for line in said]


def plan(session: Session, settings: Settings, study: AdmittedStudy) -> StudyPlan:
    spec = study.spec
    trial = admission.plan(session, settings, spec.trial_spec({}), replace(study.base, warnings=[]))
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


def study(session: Session, job_id: UUID) -> tuple[Job, HpoSpec]:
    """Raises JobNotFound, Refused (404) for a job that is no study."""
    job = queries.get(session, job_id)
    if job.kind is not JobKind.HPO:
        raise Refused(404, "not_a_study", f"job {job_id} is of kind {job.kind}: only an hpo job has trials")
    return job, HpoSpec.model_validate(job.spec)


def trials(session: Session, job_id: UUID) -> list[TrialView]:
    """By number. Raises as `study` does."""
    _, spec = study(session, job_id)
    of_study = (Job.parent_id == job_id, Job.trial_number.is_not(None))
    columns = (Job.id, Job.trial_number, Job.params, Job.state, Job.reason, Job.message, Job.best)
    times = (Job.created_at, Job.started_at, Job.finished_at)
    points: dict[UUID, dict[int, float | None]] = {}
    reports = select(Metric.job_id, Metric.step, Metric.value).join(Job, Job.id == Metric.job_id)
    for trial_id, step, value in session.execute(
        reports.where(*of_study, Metric.name == spec.objective.metric).order_by(Metric.step)
    ):
        points.setdefault(trial_id, {})[step] = value
    rows = session.execute(select(*columns, *times).where(*of_study).order_by(Job.trial_number))
    return [
        TrialView(
            number=row.trial_number,
            job_id=row.id,
            params=row.params or {},
            value=(row.best or {}).get("value") if row.state is JobState.SUCCEEDED else None,
            state=row.state,
            reason=row.reason,
            message=row.message,
            intermediate=points.get(row.id, {}),
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
        )
        for row in rows
    ]


def best(session: Session, job_id: UUID) -> BestView:
    """Raises as `study` does, and Refused (404) while no trial has a value."""
    job, spec = study(session, job_id)
    if job.best is None:
        message = f"no trial of study {job_id} has a value of {spec.objective.metric} yet"
        raise Refused(404, "no_best_trial", message)
    trial = queries.get(session, UUID(job.best["job_id"]))
    return BestView(
        number=job.best["trial"],
        job_id=trial.id,
        params=trial.params or {},
        value=job.best["value"],
        epoch=job.best["epoch"],
        metrics=job.best["metrics"],
        spec=trial.spec,
        spec_digest=trial.spec_digest,
    )


def promoted(session: Session, job_id: UUID, changes: Mapping[str, Any]) -> tuple[TrainSpec, UUID, list[str]]:
    """A full training job from a study's best trial, or from a training job or trial itself, the id of that job, and
    what is to be said of it.

    The parameters and the objective are the trial's; test days and baselines are the full job's. Raises JobNotFound,
    Refused naming the change that is wrong.
    """
    job = queries.get(session, job_id)
    match job.kind:
        case JobKind.HPO:
            found = best(session, job_id)
            source, base = found.job_id, HpoSpec.model_validate(job.spec).base
            params: dict[str, object] = {**found.params, "trainer.objective": found.spec["trainer"]["objective"]}  # type: ignore[index, call-overload]
        case JobKind.TRAIN | JobKind.TRIAL:
            source, base, params = job.id, TrainSpec.model_validate(job.spec), {}
        case _:
            raise Refused(409, "not_promotable", f"job {job_id} is of kind {job.kind}: promote an hpo or training job")
    params |= {"baselines": True, "name": f"best of {job.name or job_id}"} | _dotted(changes)
    for key, value in params.items():
        try:
            put(base, {key: value})
        except KeyError as missing:
            raise invalid(_pointer(key), f"{key} names no field of a training job: {missing.args[0]}") from missing
    try:
        spec = apply(base, params)
    except ValidationError as wrong:
        raise from_pydantic(wrong) from wrong
    return spec, source, chosen_on_test_days(spec, base.split) if job.kind is not JobKind.TRAIN else []


def _dotted(changes: Mapping[str, Any]) -> dict[str, Any]:
    """`{"trainer": {"max_epochs": 3}}` changes one field of a section, as `{"trainer.max_epochs": 3}` does."""
    flat: dict[str, Any] = {}
    for key, value in changes.items():
        if isinstance(value, dict) and key != "tags":
            flat |= {f"{key}.{inner}": one for inner, one in value.items()}
        else:
            flat[key] = value
    return flat


def _pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")
