"""Routes of studies: submit, list trials, get the best trial and importance, promote to a training job."""

import asyncio
from dataclasses import replace
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from api.http import examples
from api.http.auth import Audit, Reader, Submitter
from api.http.deps import DryRun, IdempotencyKey, JobId, ServiceDep, problems, require_json
from api.http.errors import Refused, invalid
from api.jobs.schemas import SubmittedView
from api.jobs.submission import (
    REFUSALS,
    SubmitRequest,
    answer,
    insert,
    plan_response,
    reject_nul,
    replay,
    submit_route,
)
from api.studies import admission as study_admission
from api.studies import service as studies
from api.studies.schemas import BestView, ImportanceView, Promotion, StudyPlan, Trials
from api.training import admission
from api.training.split import trading_days
from api.training.submission import new_run
from atft.spec.job import TrainSpec
from atft.spec.study import HpoSpec
from jobs.broker.queue import CONTROL
from jobs.db.tables import Json
from jobs.record.submission import NewJob
from jobs.states import JobKind

router = APIRouter(prefix="/jobs", tags=["studies"])
HPO_EXAMPLES = {
    "smallest": {"summary": "Only the dataset: the default space, 20 trials", "value": examples.HPO_SMALLEST},
    "small": {"summary": "A small network, three parameters, two trials at a time", "value": examples.HPO},
}
PROMOTE_EXAMPLES = {"longer": {"summary": "The best trial, trained for 20 epochs", "value": examples.PROMOTE}}


@router.post("/hpo", summary="Submit a study", **submit_route(StudyPlan, "The queued study; it submits its trials."))
async def submit_hpo(
    spec: Annotated[HpoSpec, Body(openapi_examples=HPO_EXAMPLES)],
    response: Response,
    service: ServiceDep,
    principal: Submitter,
    entry: Audit,
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedView | Response:
    """Queue a study that searches the space for the best objective.

    Each trial is a job of its own, with evidence and metrics.

    A space key that names no field or changes nothing is refused; choices that give the same run are merged, with a
    warning. Both extremes of the space run one step before the first trial starts. A failed trial has no value.
    """
    request = SubmitRequest(service, principal, entry, response, idempotency_key, dry_run)
    body = spec.model_dump(mode="json")
    reject_nul(body)
    identity = request.identity(JobKind.HPO, {"spec": body})
    try:
        study = await service.database.read(study_admission.admit, spec)
        if dry_run:
            days = await trading_days(service, study.base.dataset)
            return plan_response(await service.database.read(study_admission.plan, study, days))
        return await answer(request, await insert(request, _new_study(study), identity), study.warnings)
    except REFUSALS as refusal:
        return await replay(request, identity, refusal)


def _new_study(study: study_admission.AdmittedStudy) -> NewJob:
    base = study.spec.base
    return NewJob(
        kind=JobKind.HPO,
        spec=study.spec.model_dump(mode="json"),
        spec_digest=study.spec.digest(),
        queue=CONTROL,
        name=base.name,
        tags=base.tags,
        priority=base.resources.priority,
        dataset=study.base.dataset.name,
        dataset_fingerprint=study.base.dataset.fingerprint,
        params={"trial_queue": study.base.queue},
    )


@router.get("/{job_id}/trials", summary="A study's trials", responses=problems(404))
async def get_trials(job_id: JobId, service: ServiceDep, _: Reader) -> Trials:
    """Every trial with its parameters, its value, its state and reason, and its objective by epoch."""
    return Trials(items=await service.database.read(studies.list_trials, job_id))


@router.get("/{job_id}/best", summary="A study's best trial", responses=problems(404))
async def get_best(job_id: JobId, service: ServiceDep, _: Reader) -> BestView:
    """The best trial so far with its whole training spec. 404 while no trial has a value."""
    return await service.database.read(studies.best_trial, job_id)


@router.get("/{job_id}/importance", summary="A study's parameter importance", responses=problems(404, 410))
async def get_importance(job_id: JobId, service: ServiceDep, _: Reader) -> ImportanceView:
    """The share of each parameter in the objective's variation, of a finished study. Null, with the reason, when there
    are too few complete trials."""
    row = await service.database.read(studies.importance_artifact, job_id)
    path = await service.artifact_file(row)
    return ImportanceView.model_validate_json(await asyncio.to_thread(path.read_bytes))


def _promote(session: Session, job_id: UUID, promotion: Promotion) -> tuple[TrainSpec, UUID, admission.AdmittedRun]:
    try:
        spec, source, warnings = studies.promoted_spec(session, job_id, promotion.changes)
    except ValidationError as error:  # the stored spec is out of date, not the request
        raise Refused(409, "not_promotable", f"the spec of job {job_id} is of another version: {error}") from error
    admitted = admission.admit(session, spec)
    return spec, source, replace(admitted, warnings=[*admitted.warnings, *warnings])


@router.post(
    "/{job_id}/promote",
    status_code=202,
    response_model=SubmittedView,
    dependencies=[Depends(require_json)],
    summary="Promote to a full training job",
    response_description="The queued training job.",
    responses=problems(404, 409, 413, 415),
)
async def promote(
    job_id: JobId,
    promotion: Annotated[Promotion, Body(openapi_examples=PROMOTE_EXAMPLES)],
    response: Response,
    service: ServiceDep,
    principal: Submitter,
    entry: Audit,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedView | Response:
    """Train a study's best trial (or this trial, or this training job) in full: with test days and baselines.

    Further fields of the body change its spec, such as `"optimizer.name": "adabelief"`.
    """
    if promotion.target == "alias":
        raise invalid("/as", "model aliases are not available yet; use train")
    reject_nul(promotion.changes)
    request = SubmitRequest(service, principal, entry, response, idempotency_key)
    body: Json = {"promote": str(job_id), "as": promotion.target, "changes": dict(promotion.changes)}
    identity = request.identity(JobKind.TRAIN, body)
    try:
        spec, source, admitted = await service.database.read(_promote, job_id, promotion)
        new = new_run(spec, JobKind.TRAIN, queue=admitted.queue, dataset=admitted.dataset, source=source)
        return await answer(request, await insert(request, new, identity), admitted.warnings)
    except REFUSALS as refusal:
        return await replay(request, identity, refusal)
