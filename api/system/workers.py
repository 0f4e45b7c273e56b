"""The route that lists worker processes."""

from datetime import UTC, datetime, timedelta
from typing import Final

from fastapi import APIRouter

from api.http.auth import Reader
from api.http.deps import ServiceDep, problems
from api.system.schemas import Workers, WorkerView
from jobs.db.tables import Worker
from jobs.record import queries

router = APIRouter(tags=["service"])
LIVE_SECONDS: Final = 60.0


@router.get("/workers", summary="List workers", responses=problems())
async def list_workers(service: ServiceDep, _: Reader) -> Workers:
    """Worker processes by heartbeat: host, queue, device, and the job that each is running."""
    rows = await service.database.read(queries.workers)
    return Workers(items=[worker_view(row) for row in rows])


def worker_view(row: Worker, now: datetime | None = None) -> WorkerView:
    live = (now or datetime.now(UTC)) - row.last_seen < timedelta(seconds=LIVE_SECONDS)
    return WorkerView(
        name=row.name,
        host=row.host,
        queue=row.queue,
        device=row.device,
        busy_with=row.busy_with,
        started_at=row.started_at,
        last_seen=row.last_seen,
        live=live,
        problem=row.problem,
    )
