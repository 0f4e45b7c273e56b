"""Pretraining: submit."""

from typing import Annotated

from fastapi import APIRouter, Body, Response

from api.http import examples
from api.http.auth import Submitter
from api.http.deps import DryRun, IdempotencyKey, ServiceDep, submits
from api.jobs.schemas import Plan, SubmittedView
from api.training.submission import submit_run
from atft.spec.pretrain import PretrainSpec
from jobs.states import JobKind

router = APIRouter(prefix="/jobs", tags=["jobs"])
PRETRAIN_EXAMPLES = {
    "smallest": {"summary": "Only the dataset: masked prediction", "value": examples.TRAIN_SMALLEST},
    "contrast": {"summary": "A small network, masked prediction and contrast", "value": examples.PRETRAIN},
}


@router.post("/pretrain", summary="Submit a pretraining job", **submits(Plan))
async def submit_pretrain(
    spec: Annotated[PretrainSpec, Body(openapi_examples=PRETRAIN_EXAMPLES)],
    response: Response,
    service: ServiceDep,
    who: Submitter,
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedView | Response:
    """Queue a pretraining of the network's encoder: on training days, without labels; validation days choose the epoch
    and test days have no part in it.

    A later `POST /jobs/train` names the job in `init_from` and begins with its weights, where network, features, data
    and days allow it.
    """
    return await submit_run(service, who, spec, JobKind.PRETRAIN, dry_run=dry_run, key=idempotency_key, answer=response)
