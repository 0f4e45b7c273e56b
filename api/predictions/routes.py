"""The route that submits a prediction: scores for a range of days by the weights of a succeeded job."""

from typing import Annotated

from fastapi import APIRouter, Body, Response

from api.http.auth import Submitter
from api.http.deps import DryRun, IdempotencyKey, ServiceDep
from api.jobs.schemas import SubmittedView
from api.jobs.submission import RequestIdentity, submit_route
from api.predictions import admission
from api.predictions.schemas import PREDICT, PREDICT_FOLD, PredictPlan
from api.training.submission import plan_or_queue, queue_run
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
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedView | Response:
    """Score the dataset's trading days from `from_day` to `to_day` by the best weights of a job that has succeeded.

    The artifact `predictions.parquet` has a row for each valid row of the universe: date, code, `score_{h}d`; null
    where a stock has too few earlier days. On the days of the model's own evaluation, on the CPU, the scores are
    those of that evaluation, bit for bit. A dataset with other features is refused. `warnings` report how many of
    the days are in sample.
    """

    async def queue(admitted: admission.AdmittedPrediction, identity: RequestIdentity | None) -> SubmittedView:
        return await queue_run(
            service, principal, spec, JobKind.PREDICT, response, queue=admitted.queue, dataset=admitted.dataset.name,
            fingerprint=admitted.dataset.fingerprint, identity=identity, warnings=admitted.warnings,
            source=admitted.model.id, params=admitted.params,
        )  # fmt: skip

    return await plan_or_queue(
        service, principal, spec, JobKind.PREDICT, dry_run=dry_run, key=idempotency_key, response=response,
        admit=lambda session: admission.admit(session, service.settings, spec),
        plan=lambda session, admitted: admission.plan(session, spec, admitted),
        queue=queue,
    )  # fmt: skip
