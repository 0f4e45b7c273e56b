"""Ensembles: submit."""

from typing import Annotated

from fastapi import APIRouter, Body, Response

from api.http import examples
from api.http.auth import Submitter
from api.http.deps import DryRun, IdempotencyKey, ServiceDep, submits
from api.jobs.schemas import Plan, SubmittedView
from api.training.submission import submit_run
from atft.spec.ensemble import EnsembleSpec
from jobs.states import JobKind

router = APIRouter(prefix="/jobs", tags=["jobs"])
ENSEMBLE_EXAMPLES = {"five": {"summary": "A small run with five seeds", "value": examples.ENSEMBLE}}


@router.post("/ensemble", summary="Submit a seed ensemble", **submits(Plan))
async def submit_ensemble(
    spec: Annotated[EnsembleSpec, Body(openapi_examples=ENSEMBLE_EXAMPLES)],
    response: Response,
    service: ServiceDep,
    who: Submitter,
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedView | Response:
    """Queue one training for each seed, one after another, and average their scores by rank.

    Each member is the training of its seed alone, with its own best epoch, weights and evidence, and `val.1/…`,
    `test.1/…` for numbers. `val/…`, `test/…`, daily series and predictions.parquet are those of the average; a member
    that fails makes the job fail.
    """
    return await submit_run(service, who, spec, JobKind.ENSEMBLE, dry_run=dry_run, key=idempotency_key, answer=response)
