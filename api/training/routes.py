"""The days a job trains, validates and tests on."""

import asyncio
from typing import Final

from fastapi import APIRouter, Response
from pydantic import TypeAdapter, ValidationError

from api.http.auth import Reader
from api.http.deps import JobId, ServiceDep, problems
from api.http.errors import Refused
from api.jobs.views import etag
from api.training.schemas import SplitView
from api.training.split import figure, observed, planned, trading_days
from atft.spec.data import DataSpec, SplitSpec
from atft.spec.days import plan_split
from jobs.db.tables import Job
from jobs.record import queries
from jobs.settings import Settings

router = APIRouter(prefix="/jobs/{job_id}", tags=["results"])
_SPLIT: Final = TypeAdapter(SplitSpec)
_DATA: Final = TypeAdapter(DataSpec)


@router.get("/split", summary="A job's split, with its picture", responses=problems(404, 409))
async def get_split(job_id: JobId, response: Response, service: ServiceDep, _: Reader) -> SplitView:
    """The first and last trading day and the number of days of every stretch that a fold trains, validates or tests on,
    and of the gaps between; `figure` is the same as a picture, in Plotly's JSON.

    Of a job that has begun, by its evidence; before that, and of a study, by its spec and its dataset's calendar.
    """
    job = await service.database.read(queries.get, job_id)
    response.headers["ETag"] = etag(job)
    return await asyncio.to_thread(_view, job, service.settings)


def _view(job: Job, settings: Settings) -> SplitView:
    body = job.spec if "split" in job.spec else job.spec.get("base", {})
    try:
        split, data = _SPLIT.validate_python(body["split"]), _DATA.validate_python(body["data"])
    except (KeyError, ValidationError) as error:
        raise Refused(404, "no_split", f"a {job.kind} job has no split: it neither trains nor tests") from error
    folds = observed((job.evidence or {}).get("data", {}))
    seen = folds is not None
    if folds is None:
        days = trading_days(settings, job.dataset_fingerprint or "-")
        if days is None:
            detail = "the files of the job's dataset are gone, so that its days cannot be told"
            raise Refused(409, "dataset_files_gone", detail)
        folds = planned(plan_split(len(days), data.window, max(data.horizons), split), days)
    return SplitView(
        kind=split.kind,
        embargo_days=split.embargo_days,
        source="evidence" if seen else "plan",
        folds=folds,
        figure=figure(folds),
    )
