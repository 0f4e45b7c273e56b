"""Liveness, readiness and Prometheus metrics routes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import sqlalchemy as sa
from fastapi import APIRouter, Query, Response
from redis.exceptions import RedisError
from sqlalchemy.orm import Session

from api.http import examples
from api.http.auth import Reader
from api.http.deps import ServiceDep, problems
from api.http.errors import Unavailable
from api.http.service import Service
from api.system.schemas import Check, Health
from jobs.db.migrate import database_revision, head_revision
from jobs.db.tables import Job
from jobs.record import queries, store_identity
from jobs.settings import free_bytes
from jobs.states import JobKind, JobState

router = APIRouter(tags=["service"])
LIMIT_SECONDS: Final = 3.0
Verbose = Annotated[
    str | None,
    Query(description="with this parameter, whatever its value, the response lists each check", examples=["true"]),
]
_NOT_READY: Final[dict[int | str, dict[str, Any]]] = {
    400: problems()[400],
    503: {"model": Health, "description": "Not ready. Retry-After says when to retry."},
}


@router.get("/livez", response_model_exclude_none=True, summary="Liveness", responses={400: problems()[400]})
async def get_livez() -> Health:
    """200 while this process runs, whatever the state of database and broker."""
    return Health(status="ok")


def _revision(session: Session) -> str | None:
    return database_revision(session.connection())


async def _check_database(service: Service) -> Check:
    started = time.perf_counter()
    await service.database.read(lambda session: session.execute(sa.text("SELECT 1")))
    return Check(ok=True, detail=f"responded in {(time.perf_counter() - started) * 1000:.0f} ms")


async def _check_migrations(service: Service) -> Check:
    present, head = await service.database.read(_revision), await asyncio.to_thread(head_revision)
    return Check(
        ok=present == head,
        detail="at head"
        if present == head
        else f"the database is at {present}, this code needs {head}: run `make migration`'s upgrade",
    )


async def _check_broker(service: Service) -> Check:
    started = time.perf_counter()
    await service.redis.ping()
    return Check(ok=True, detail=f"responded in {(time.perf_counter() - started) * 1000:.0f} ms")


async def _check_workers(service: Service) -> Check:
    live = await service.database.read(queries.live_queues)
    return Check(
        ok=bool(live),
        detail=f"live workers on {', '.join(sorted(live))}" if live else "no worker was seen within a minute",
    )


async def _check_disk(service: Service) -> Check:
    root = service.settings.run_root
    await asyncio.to_thread(root.mkdir, parents=True, exist_ok=True)
    free, min_free = await asyncio.to_thread(free_bytes, root), service.settings.min_free_bytes
    return Check(ok=free >= min_free, detail=f"{free / 1e9:.1f} GB free; {min_free / 1e9:g} GB are needed at least")


async def _check_store(service: Service) -> Check:
    known = await service.database.read(store_identity.known_id)
    problem = await asyncio.to_thread(store_identity.problem_of, known, service.settings.run_root)
    return Check(ok=problem is None, detail=problem or "the run root is this database's")


# Whether a check is required for readiness. Without a broker or a worker jobs are still accepted, and wait.
_CHECKS: Final[dict[str, tuple[Callable[[Service], Awaitable[Check]], bool]]] = {
    "database": (_check_database, True),
    "migrations": (_check_migrations, True),
    "broker": (_check_broker, False),
    "workers": (_check_workers, False),
    "disk": (_check_disk, True),
    "store": (_check_store, True),
}


async def _bounded(check: Callable[[Service], Awaitable[Check]], service: Service) -> Check:
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await check(service)
    except Unavailable as error:
        return Check(ok=False, detail=error.detail)
    except TimeoutError:
        return Check(ok=False, detail=f"no response within {LIMIT_SECONDS:.0f} s")
    except (RedisError, OSError) as error:
        return Check(ok=False, detail=f"not reachable ({type(error).__name__})")


@router.get(
    "/readyz", response_model=Health, response_model_exclude_none=True, summary="Readiness", responses=_NOT_READY
)
async def get_readyz(service: ServiceDep, response: Response, verbose: Verbose = None) -> Health:
    """200 when the checks of database, migrations, disk and store pass. Broker and workers are only reported."""
    names = list(_CHECKS)
    results = await asyncio.gather(*(_bounded(check, service) for check, _ in _CHECKS.values()))
    checks = dict(zip(names, results, strict=True))
    ready = all(checks[name].ok for name, (_, needed) in _CHECKS.items() if needed)
    if not ready:
        response.status_code = 503
        response.headers["Retry-After"] = "2"
    return Health(status="ok" if ready else "unavailable", checks=checks if verbose is not None else None)


def _read_metrics(session: Session) -> tuple[dict[tuple[JobKind, JobState], int], dict[str, int], dict[str, int]]:
    counted = session.execute(sa.select(Job.kind, Job.state, sa.func.count()).group_by(Job.kind, Job.state))
    jobs = {(kind, state): number for kind, state, number in counted}
    queued = session.execute(
        sa.select(Job.queue, sa.func.count()).where(Job.state == JobState.QUEUED).group_by(Job.queue)
    )
    depth = {queue: number for queue, number in queued}  # noqa: C416 - a Row is not a tuple for the type checker
    live = queries.live_queues(session)
    workers = {queue: sum(row.queue == queue for row in queries.workers(session)) for queue in live}
    return jobs, depth, workers


@router.get(
    "/metrics",
    response_class=Response,
    summary="Prometheus metrics",
    responses={
        **problems(),
        200: {
            "description": "Prometheus text.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": examples.PROMETHEUS}},
        },
    },
)
async def get_prometheus(service: ServiceDep, _: Reader) -> Response:
    """Jobs by kind and state, queue depth, workers, requests, streams. Without a database its metrics are left out."""
    try:
        jobs, depth, workers = await service.database.read(_read_metrics)
        body = service.metrics.render(jobs, depth, workers, database_up=True)
    except Unavailable:
        body = service.metrics.render({}, {}, {}, database_up=False)
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
