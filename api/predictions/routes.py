"""The route that submits a prediction: scores for a range of days by the weights of a succeeded job."""

from typing import Annotated

from fastapi import APIRouter, Body, Response

from api.http.auth import Audit, Submitter
from api.http.deps import DryRun, IdempotencyKey, ServiceDep
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
from api.predictions import admission
from api.predictions.schemas import PREDICT, PREDICT_FOLD, PredictPlan
from api.training.split import trading_days
from api.training.submission import new_run
from atft.spec.prediction import PredictSpec
from jobs.states import JobKind

router = APIRouter(prefix="/jobs", tags=["jobs"])
EXAMPLES = {
    "year": {"summary": "A year's scores of a finished training job", "value": PREDICT},
    "fold": {"summary": "By the third of several folds", "value": PREDICT_FOLD},
}


@router.post("/predict", summary="Submit a prediction", **submit_route(PredictPlan))
async def submit_predict(
    spec: Annotated[PredictSpec, Body(openapi_examples=EXAMPLES)],
    response: Response,
    service: ServiceDep,
    principal: Submitter,
    entry: Audit,
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedView | Response:
    """Score the dataset's trading days from `from_day` to `to_day` by the best weights of a job that has succeeded.

    The artifact `predictions.parquet` has a row for each valid row of the universe: date, code, `score_{h}d`; null
    where a stock has too few earlier days. On the days of the model's own evaluation, on the CPU, the scores are
    those of that evaluation, bit for bit. A dataset with other features is refused. `warnings` report how many of
    the days are in sample.
    """
    request = SubmitRequest(service, principal, entry, response, idempotency_key, dry_run)
    body = spec.model_dump(mode="json")
    reject_nul(body)
    identity = request.identity(JobKind.PREDICT, {"spec": body})
    try:
        admitted = await service.database.read(admission.admit, spec)
        admitted = admission.select_days(admitted, spec, await trading_days(service, admitted.dataset))
        if dry_run:
            return plan_response(await service.database.read(admission.plan, spec, admitted))
        new = new_run(
            spec, JobKind.PREDICT, queue=admitted.queue, dataset=admitted.dataset, source=admitted.model.id,
            params=admitted.params,
        )  # fmt: skip
        return await answer(request, await insert(request, new, identity), admitted.warnings)
    except REFUSALS as refusal:
        return await replay(request, identity, refusal)
