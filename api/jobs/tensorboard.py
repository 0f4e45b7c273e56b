"""The route that downloads a job's metrics as a TensorBoard event file."""

from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from api.http.auth import Reader
from api.http.deps import JobId, ServiceDep, problems
from api.http.service import Service
from api.jobs import event_file
from jobs.record import history, queries

router = APIRouter(prefix="/jobs/{job_id}", tags=["results"])
BATCH: Final = 20_000
_FILE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The file, under a name that TensorBoard looks for.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}, "example": "…"}},
    }
}


@router.get(
    "/tensorboard",
    response_class=StreamingResponse,
    summary="A job's metrics as a TensorBoard event file",
    responses={**problems(404), **_FILE},
)
async def get_tensorboard(job_id: JobId, request: Request, service: ServiceDep, _: Reader) -> Response:
    """Every point without thinning, oldest first: a later download from a running job starts with the same bytes.

    Put it in a folder of its own under TensorBoard's `--logdir`. An undefined value is NaN. `atft tensorboard` does
    this for several jobs, or for all trials of a study.
    """
    job = await service.database.read(queries.get, job_id)
    created_at = job.created_at.timestamp()
    headers = {
        "Content-Disposition": f'attachment; filename="events.out.tfevents.{created_at:.0f}.{job_id}"',
        "Cache-Control": "no-store",
    }
    if request.state.method == "HEAD":
        return Response(media_type="application/octet-stream", headers=headers)
    return StreamingResponse(_file(service, job_id, created_at), media_type="application/octet-stream", headers=headers)


async def _file(service: Service, job_id: UUID, created_at: float) -> AsyncIterator[bytes]:
    yield event_file.header(created_at)
    points: list[history.Point] = []
    while len(
        points := await service.database.read(history.points_after, job_id, points[-1] if points else None, BATCH)
    ):
        yield b"".join(event_file.frames(points))
