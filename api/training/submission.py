"""Submits a training, ensemble or pretraining, and makes the job of any run."""

from uuid import UUID

from fastapi import Response

from api.jobs.schemas import SubmittedView
from api.jobs.submission import REFUSALS, SubmitRequest, answer, insert, plan_response, reject_nul, replay
from api.training import admission
from api.training.split import trading_days
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec
from atft.spec.prediction import PredictSpec
from jobs.db.tables import Dataset, Json
from jobs.record.submission import NewJob
from jobs.states import JobKind


async def submit_run(request: SubmitRequest, spec: RunSpec | EnsembleSpec, kind: JobKind) -> SubmittedView | Response:
    """Plan or queue a training, ensemble or pretraining. Raises Refused (422) naming the field that does not fit."""
    body = spec.model_dump(mode="json")
    reject_nul(body)
    identity = request.identity(kind, {"spec": body})
    database = request.service.database
    try:
        admitted = await database.read(admission.admit, spec)
        if request.dry_run:
            days = await trading_days(request.service, admitted.dataset)
            return plan_response(await database.read(admission.plan, spec, admitted, days))
        new = new_run(spec, kind, queue=admitted.queue, dataset=admitted.dataset)
        return await answer(request, await insert(request, new, identity), admitted.warnings)
    except REFUSALS as refusal:
        return await replay(request, identity, refusal)


def new_run(
    spec: RunSpec | EnsembleSpec | PredictSpec,
    kind: JobKind,
    *,
    queue: str,
    dataset: Dataset,
    source: UUID | None = None,
    params: Json | None = None,
) -> NewJob:
    """The job of a checked run."""
    run_spec = spec.run
    return NewJob(
        kind=kind,
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest(),
        queue=queue,
        name=run_spec.name,
        tags=run_spec.tags,
        priority=run_spec.resources.priority,
        max_attempts=run_spec.resources.max_attempts,
        queue_timeout_seconds=run_spec.resources.queue_timeout_seconds,
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        source_job_id=source,
        params=params,
    )
