"""A study's trials, its best trial, its parameter importance, and the training job that a trial is promoted to."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.http.errors import Refused, from_pydantic, invalid
from api.studies.admission import selection_bias_warnings
from api.studies.schemas import BestView, TrialView
from atft.spec.job import TrainSpec
from atft.spec.kinds import KINDS
from atft.spec.study import apply, with_params
from jobs.db.tables import ArtifactRow, Job, Metric
from jobs.errors import ArtifactNotFound
from jobs.record import catalog, queries
from jobs.record.actions import Action, refusal
from jobs.states import TERMINAL, JobKind, JobState


def get_study(session: Session, job_id: UUID) -> tuple[Job, str]:
    """A study's job and its metric, also of a spec that only an earlier version accepted. Raises JobNotFound; Refused
    (404) if the job is not a study.
    """
    job = queries.get(session, job_id)
    if job.kind is not JobKind.HPO:
        raise Refused(404, "not_a_study", f"job {job_id} is of kind {job.kind}: only an hpo job has trials")
    return job, str(job.spec["objective"]["metric"])


def list_trials(session: Session, job_id: UUID) -> list[TrialView]:
    """All trials of a study by number. Raises as `get_study`."""
    _, metric = get_study(session, job_id)
    of_study = (Job.parent_id == job_id, Job.trial_number.is_not(None))
    columns = (Job.id, Job.trial_number, Job.params, Job.state, Job.reason, Job.message, Job.best)
    times = (Job.created_at, Job.started_at, Job.finished_at)
    points: dict[UUID, dict[int, float | None]] = {}
    reports = select(Metric.job_id, Metric.step, Metric.value).join(Job, Job.id == Metric.job_id)
    for trial_id, step, value in session.execute(reports.where(*of_study, Metric.name == metric).order_by(Metric.step)):
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


def best_trial(session: Session, job_id: UUID) -> BestView:
    """The best trial so far. Raises as `get_study`, and Refused (404) while no trial has a value."""
    job, metric = get_study(session, job_id)
    if job.best is None:
        message = f"no trial of study {job_id} has a value of {metric} yet"
        raise Refused(404, "no_best_trial", message)
    trial = queries.get(session, UUID(job.best["job_id"]))
    return BestView(
        number=job.best["trial"],
        job_id=trial.id,
        params=trial.point,
        value=job.best["value"],
        epoch=job.best["epoch"],
        metrics=job.best["metrics"],
        spec=trial.spec,
        spec_digest=trial.spec_digest,
    )


def importance_artifact(session: Session, job_id: UUID) -> ArtifactRow:
    """The file of a study's parameter importance. Raises as `get_study`, and Refused (404) while there is none."""
    job, _ = get_study(session, job_id)
    try:
        return catalog.artifact(session, job_id, "importance.json")
    except ArtifactNotFound as error:
        when = "it ended without a trial" if job.state in TERMINAL else "it is made when the study ends"
        raise Refused(404, "no_importance", f"study {job_id} has no parameter importance: {when}") from error


def promoted_spec(session: Session, job_id: UUID, changes: Mapping[str, Any]) -> tuple[TrainSpec, UUID, list[str]]:
    """The full training spec of a study's best trial (or of a trial or training job), the source's id, and warnings.

    Parameters and objective are the trial's; test days and baselines are the full job's. Raises JobNotFound; Refused
    naming the change that is wrong.
    """
    job = queries.get(session, job_id)
    found = best_trial(session, job_id) if KINDS[job.kind].coordinating else None
    if (refused := refusal(job, Action.PROMOTE)) is not None:
        raise Refused(409, "not_promotable", refused)
    base, source = TrainSpec.model_validate(job.run), job.id
    params: dict[str, object] = {}
    if found is not None:
        source = found.job_id
        params = {**found.params, "trainer.objective": found.spec["trainer"]["objective"]}  # type: ignore[index, call-overload]
    params |= {"baselines": True, "name": f"best of {job.name or job_id}"} | _flatten(changes)
    for key, value in params.items():
        try:
            with_params(base, {key: value})
        except KeyError as missing:
            raise invalid(_json_pointer(key), f"{key} names no field of a training job: {missing.args[0]}") from missing
    try:
        spec = apply(base, params)
    except ValidationError as wrong:
        raise from_pydantic(wrong) from wrong
    return spec, source, selection_bias_warnings(spec, base.split) if job.kind is not JobKind.TRAIN else []


def _flatten(changes: Mapping[str, Any]) -> dict[str, Any]:
    """`{"trainer": {"max_epochs": 3}}` changes one field of a section, as `{"trainer.max_epochs": 3}` does."""
    flat: dict[str, Any] = {}
    for key, value in changes.items():
        if isinstance(value, dict) and key != "tags":
            flat |= {f"{key}.{inner}": one for inner, one in value.items()}
        else:
            flat[key] = value
    return flat


def _json_pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")
