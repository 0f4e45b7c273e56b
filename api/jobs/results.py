"""Routes of a job's results: metrics, evidence, artifacts."""

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from sqlalchemy.orm import Session

from api.http.auth import Reader
from api.http.deps import MAX_INTEGER, JobId, ServiceDep, problems
from api.http.errors import Refused
from api.jobs import export
from api.jobs.evidence_schemas import TRAINING, EvidenceView
from api.jobs.schemas import Artifacts, MetricsView
from api.jobs.views import artifact_view, etag
from atft.spec.metric import LEADING
from jobs.db.tables import ArtifactRow, Job, Json
from jobs.record import baselines, catalog, history, queries

router = APIRouter(prefix="/jobs/{job_id}", tags=["results"])
_RANGE: Final = r"\s*(\d{1,18}-\d{0,18}|-\d{1,18})\s*"
_RANGES: Final = re.compile(rf"bytes={_RANGE}(,{_RANGE})*", re.ASCII)
MetricName = Annotated[str, Query(min_length=1, max_length=100)]


def _series(
    session: Session, job_id: JobId, names: list[str] | None, after_step: int, max_points: int
) -> tuple[Job, history.Series, Mapping[str, Json]]:
    job = queries.get(session, job_id)
    computed = baselines.jobs_of(session, [job]).get(job_id)
    return job, history.series(session, job_id, names, after_step, max_points), baselines.values(job, computed)


_TABLES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The metrics in the requested format: a table has the columns name, step, value.",
        "content": {
            "text/csv": {
                "schema": {"type": "string"},
                "example": f'"name","step","value"\n"{LEADING}",1,0.012\n"{LEADING}",2,\n',
            },
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.get("/metrics", response_model=MetricsView, summary="A job's metrics", responses={**problems(404), **_TABLES})
async def get_metrics(
    job_id: JobId,
    service: ServiceDep,
    _: Reader,
    name: Annotated[
        list[MetricName] | None,
        Query(max_length=100, description="only names with this prefix; repeatable", examples=[[LEADING]]),
    ] = None,
    after_step: Annotated[int, Query(ge=0, le=MAX_INTEGER, description="only points after this step")] = 0,
    max_points: Annotated[
        int, Query(ge=4, le=100_000, description="points per series; longer ones are thinned, keeping lows and highs")
    ] = 1000,
    format: Annotated[Literal["json", "parquet", "csv"], Query(description="json, or one long table")] = "json",  # noqa: A002 - the contract's name
) -> MetricsView | Response:
    """Keys are `{split}/{metric}` (the mean over horizons) and `{split}/{metric}@{h}d`; `step` is the 1-based epoch.

    With several folds `val.2/…` belongs to the second one; `val/…`, reported at the end, is the mean over folds of
    their best epochs. An undefined value is null, and so is a mean to which one fold has no value.
    Only rows of the current attempt are returned: rows that a lost attempt wrote after its last checkpoint are deleted.
    """
    job, series, of_baselines = await service.database.read(_series, job_id, name, after_step, max_points)
    if format != "json":
        return export.table(series, format, f"{job_id}-metrics")
    return MetricsView(
        job_id=job.id,
        state=job.state,
        attempt=job.attempt,
        latest=job.metrics,
        best=job.best,
        baselines=of_baselines,
        series=series,
        last_seq=job.last_seq,
    )


@router.get(
    "/evidence",
    response_model=EvidenceView,
    summary="A job's evidence",
    responses={**problems(404), 200: {"content": {"application/json": {"example": TRAINING}}}},
)
async def get_evidence(job_id: JobId, service: ServiceDep, _: Reader) -> JSONResponse:
    """The requested and the resolved spec, and what was observed: optimizer class and state keys, learning rate by
    epoch, threads, days, modules with their gradients, versions. Empty until the first step has run."""
    job = await service.database.read(queries.get, job_id)
    return JSONResponse(job.evidence or {}, headers={"ETag": etag(job)})  # as stored, by whichever release


def _artifacts(session: Session, job_id: JobId) -> list[ArtifactRow]:
    queries.get(session, job_id)
    return catalog.artifacts(session, job_id)


@router.get("/artifacts", summary="List a job's files", responses=problems(404))
async def list_artifacts(job_id: JobId, service: ServiceDep, _: Reader) -> Artifacts:
    """Files with size and SHA-256. A file is listed only when it is complete."""
    rows = await service.database.read(_artifacts, job_id)
    return Artifacts(items=[artifact_view(row) for row in rows])


def _artifact(session: Session, job_id: JobId, name: str) -> ArtifactRow:
    queries.get(session, job_id)
    return catalog.artifact(session, job_id, name)


_FILE: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}, "example": "…"}},
    }
    for status, description in ((200, "The whole file."), (206, "The requested range."))
}


@router.get(
    "/artifacts/{name:path}",
    response_class=FileResponse,
    summary="Download a file",
    responses={**problems(404, 410, 416), **_FILE},
)
async def get_artifact(
    job_id: JobId,
    name: Annotated[
        str, Path(max_length=500, description="the file's name in the list", examples=["best.safetensors"])
    ],
    request: Request,
    service: ServiceDep,
    _: Reader,
) -> Response:
    """The content, or a `Range` of it. `ETag` is the SHA-256. 410 when the bytes on the disk no longer have it."""
    row = await service.database.read(_artifact, job_id, name)
    path = await service.artifact_file(row)
    tag = f'"{row.sha256}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=31536000, immutable"}
    if tag in [part.strip() for part in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    size = (await asyncio.to_thread(path.stat)).st_size
    _check_range(request, size)
    request.scope["method"] = request.state.method  # for HEAD the file need not be read
    return FileResponse(path, media_type=row.media_type, filename=name.rpartition("/")[2], headers=headers)


def _check_range(request: Request, size: int) -> None:
    """Drop a malformed Range header, as RFC 9110 requires. Raises Refused (416) when it is outside the file."""
    requested = request.headers.get("range")
    if requested is None:
        return
    if _RANGES.fullmatch(requested):
        ends = [part.strip().split("-") for part in requested.partition("=")[2].split(",")]
        pairs = [(int(first), int(last or size)) if first else (size - int(last), size) for first, last in ends]
        if any(first >= size for first, _ in pairs):
            detail = f"the file has {size} bytes"
            raise Refused(416, "range_not_satisfiable", detail, headers={"Content-Range": f"bytes */{size}"})
        if all(first <= last for first, last in pairs):
            return
    request.scope["headers"] = [(key, value) for key, value in request.scope["headers"] if key != b"range"]
