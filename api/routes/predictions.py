"""Predictions: scores for any range of days from a finished run's weights."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Response

from api import prediction
from api.auth import Submitter
from api.deps import DryRun, IdempotencyKey, ServiceDep, json_body, problems
from api.prediction_schemas import PREDICT, PREDICT_FOLD, PredictPlan
from api.schemas import SubmittedView
from api.submission import refuse_nul, submit
from api.views import etag, submitted_view
from atft.spec.prediction import PredictSpec
from jobs.states import JobKind

router = APIRouter(prefix="/jobs", tags=["jobs"])
EXAMPLES = {
    "year": {"summary": "A year's scores of a finished training job", "value": PREDICT},
    "fold": {"summary": "By the third of several folds", "value": PREDICT_FOLD},
}


@router.post(
    "/predict",
    status_code=202,
    response_model=SubmittedView,
    dependencies=[Depends(json_body)],
    summary="Submit a prediction",
    response_description="The job, queued. `Location` is its address.",
    responses={
        **problems(413, 415),
        200: {"model": PredictPlan, "description": "With `dry_run=true`: the plan. Nothing is stored."},
    },
)
async def submit_predict(
    spec: Annotated[PredictSpec, Body(openapi_examples=EXAMPLES)],
    response: Response,
    service: ServiceDep,
    who: Submitter,
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedView | Response:
    """Score the dataset's trading days from `from_day` to `to_day` by the best weights of a job that has succeeded.

    The artifact `predictions.parquet` has a row for each valid row of the universe: date, code, `score_{h}d`; null
    where a stock has too few days behind it. On the days of the model's own evaluation, on the CPU, the scores are
    those of that evaluation, bit for bit. A dataset with other features is refused. `warnings` say how many of the
    days the model has learnt from: their scores are not out of sample.
    """
    refuse_nul(spec.model_dump(mode="json"))
    admitted = await service.database.read(prediction.admit, service.settings, spec)
    if dry_run:
        plan = await service.database.read(prediction.plan, spec, admitted)
        return Response(plan.model_dump_json(), media_type="application/json")
    resources = spec.resources
    job, position = await submit(
        service,
        who,
        kind=JobKind.PREDICT,
        spec=spec,
        queue=admitted.queue,
        key=idempotency_key,
        name=spec.name,
        tags=spec.tags,
        priority=resources.priority,
        max_attempts=resources.max_attempts,
        queue_timeout_seconds=resources.queue_timeout_seconds,
        dataset=admitted.dataset.name,
        dataset_fingerprint=admitted.dataset.fingerprint,
        source_job_id=admitted.model.id,
        params=admitted.params,
    )
    response.headers["Location"] = f"/jobs/{job.id}"
    response.headers["ETag"] = etag(job)
    return submitted_view(job, position, admitted.warnings)
