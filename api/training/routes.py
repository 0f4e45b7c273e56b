"""Routes that submit training, ensemble and pretraining jobs, and the route of a job's split."""

from typing import Annotated, Final

from fastapi import APIRouter, Body, Response
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from api.http import examples
from api.http.auth import Audit, Reader, Submitter
from api.http.deps import DryRun, IdempotencyKey, JobId, ServiceDep, problems
from api.http.errors import Refused
from api.jobs.schemas import SubmittedView
from api.jobs.submission import SubmitRequest, submit_route
from api.jobs.views import etag
from api.training.schemas import Plan, SplitView
from api.training.split import observed_folds, planned_folds, split_figure, trading_days
from api.training.submission import submit_run
from atft.spec.data import DataSpec, SplitSpec
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import TrainSpec
from atft.spec.pretrain import PretrainSpec
from atft.spec.split_plan import plan_split
from jobs.db.tables import Dataset, Job
from jobs.record import queries, stored
from jobs.states import JobKind

router = APIRouter(prefix="/jobs")
_SPLIT: Final = TypeAdapter(SplitSpec)
_DATA: Final = TypeAdapter(DataSpec)


TRAIN_EXAMPLES = {
    "smallest": {"summary": "Only the dataset: every other setting has a default", "value": examples.TRAIN_SMALLEST},
    "small": {"summary": "A small run with AdaBelief and warm restarts", "value": examples.TRAIN},
}
ENSEMBLE_EXAMPLES = {"five": {"summary": "A small run with five seeds", "value": examples.ENSEMBLE}}
PRETRAIN_EXAMPLES = {
    "smallest": {"summary": "Only the dataset: masked prediction", "value": examples.TRAIN_SMALLEST},
    "contrast": {"summary": "A small network, masked prediction and contrast", "value": examples.PRETRAIN},
}


@router.post("/train", tags=["jobs"], summary="Submit a training job", **submit_route(Plan))
async def submit_train(
    spec: Annotated[TrainSpec, Body(openapi_examples=TRAIN_EXAMPLES)],
    response: Response,
    service: ServiceDep,
    principal: Submitter,
    entry: Audit,
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedView | Response:
    """Queue a training of the ATFT-GAT-FAN network on a registered dataset.

    The spec is checked against the dataset before anything is stored: its features, its horizons, and that it has
    enough days for the window and the split. After a 202 the job will run even if this server or Redis fails.
    """
    request = SubmitRequest(service, principal, entry, response, idempotency_key, dry_run)
    return await submit_run(request, spec, JobKind.TRAIN)


@router.post("/ensemble", tags=["jobs"], summary="Submit a seed ensemble", **submit_route(Plan))
async def submit_ensemble(
    spec: Annotated[EnsembleSpec, Body(openapi_examples=ENSEMBLE_EXAMPLES)],
    response: Response,
    service: ServiceDep,
    principal: Submitter,
    entry: Audit,
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedView | Response:
    """Queue one training for each seed, one after another, and average their scores by rank.

    Each member is the training of its seed alone, with its own best epoch, weights and evidence, and metrics
    `val.1/…`, `test.1/…`. `val/…`, `test/…`, daily series and predictions.parquet are those of the average; a member
    that fails makes the job fail.
    """
    request = SubmitRequest(service, principal, entry, response, idempotency_key, dry_run)
    return await submit_run(request, spec, JobKind.ENSEMBLE)


@router.post("/pretrain", tags=["jobs"], summary="Submit a pretraining job", **submit_route(Plan))
async def submit_pretrain(
    spec: Annotated[PretrainSpec, Body(openapi_examples=PRETRAIN_EXAMPLES)],
    response: Response,
    service: ServiceDep,
    principal: Submitter,
    entry: Audit,
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedView | Response:
    """Queue a pretraining of the network's encoder: on training days, without labels; validation days choose the epoch
    and test days are not used.

    A later `POST /jobs/train` names the job in `init_from` and starts from its weights, if network, features, data
    and days match.
    """
    request = SubmitRequest(service, principal, entry, response, idempotency_key, dry_run)
    return await submit_run(request, spec, JobKind.PRETRAIN)


def _job_and_version(session: Session, job_id: JobId) -> tuple[Job, Dataset | None]:
    job = queries.get(session, job_id)
    return job, stored.version_of(session, job)


@router.get("/{job_id}/split", tags=["results"], summary="A job's split, with a plot", responses=problems(404, 409))
async def get_split(job_id: JobId, response: Response, service: ServiceDep, _: Reader) -> SplitView:
    """For each fold, the first and last trading day and the number of days of every range of training, validation and
    test days and of the gaps between them; `figure` is the same as a Plotly figure in JSON.

    For a job that has started, from its evidence; before that, and for a study, from its spec and its dataset's
    calendar.
    """
    job, version = await service.database.read(_job_and_version, job_id)
    response.headers["ETag"] = etag(job)
    try:
        split, data = _SPLIT.validate_python(job.run["split"]), _DATA.validate_python(job.run["data"])
    except (KeyError, ValidationError) as error:
        raise Refused(404, "no_split", f"a {job.kind} job has no split: it neither trains nor tests") from error
    folds = observed_folds((job.evidence or {}).get("data", {}))
    ran = folds is not None
    if folds is None:
        days = await trading_days(service, version)
        if days is None:
            detail = (
                f"the days of dataset {job.dataset} are unknown, as its files are missing or altered: register the "
                "dataset's files again"
            )
            raise Refused(409, "dataset_files_gone", detail)
        folds = planned_folds(plan_split(len(days), data.window, max(data.horizons), split), days)
    return SplitView(
        kind=split.kind,
        embargo_days=split.embargo_days,
        source="evidence" if ran else "plan",
        folds=folds,
        figure=split_figure(folds),
    )
