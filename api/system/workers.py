"""Who is there to work."""

from fastapi import APIRouter

from api.http.auth import Reader
from api.http.deps import ServiceDep, problems
from api.jobs.schemas import Workers
from api.jobs.views import worker_view
from jobs.record import queries

router = APIRouter(tags=["service"])


@router.get("/workers", summary="List workers", responses=problems())
async def list_workers(service: ServiceDep, _: Reader) -> Workers:
    """Worker processes by their own heartbeat: host, queue, device, and the job that each is busy with."""
    rows = await service.database.read(queries.workers)
    return Workers(items=[worker_view(row) for row in rows])
