"""The FastAPI application: `uvicorn --factory api.app:create_app`. Imports no torch."""

import asyncio
import contextlib
import gc
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import version
from types import FrameType
from typing import Any, Final

from fastapi import Depends, FastAPI

from api import openapi
from api.access import routes as access
from api.comparisons import routes as comparisons
from api.comparisons.service import load_statistics
from api.datasets import routes as datasets
from api.http import errors
from api.http.auth import check_bind, is_loopback
from api.http.database import Database
from api.http.deps import store_route_template
from api.http.middleware import RequestMiddleware
from api.http.prometheus import PrometheusMetrics
from api.http.rate_limits import RateLimits
from api.http.service import Service
from api.jobs import results, tensorboard
from api.jobs import routes as jobs
from api.predictions import routes as predictions
from api.streams import routes as streams
from api.studies import routes as studies
from api.system import health, workers
from api.training import routes as training
from api.web import pages
from jobs import logs
from jobs.broker.pubsub import PubSub, async_redis_client
from jobs.db.session import async_engine, async_sessions
from jobs.settings import Settings

ROUTERS: Final = (
    datasets.router, training.router, jobs.router, predictions.router, studies.router,
    results.router, tensorboard.router, comparisons.router,
    streams.router, workers.router, access.router, health.router,
)  # fmt: skip
POOL_SIZE: Final = 16
LOAD_STATISTICS_SECONDS: Final = 1.0  # after the start: the first requests do not share the interpreter with imports
GC_THRESHOLDS: Final = (20_000, 20, 20)  # objects, young and middle collections: see _frozen_heap
log = logging.getLogger("api")


def create_app(settings: Settings | None = None) -> FastAPI:
    """Raises ValueError when the settings name no database."""
    settings = settings or Settings()
    logs.configure(settings.log_level, "api", "jobs", "uvicorn")
    engine = async_engine(settings, pool_size=POOL_SIZE)
    reading = async_engine(settings, pool_size=POOL_SIZE, read_only=True)
    database = Database(async_sessions(engine), async_sessions(reading))
    metrics = PrometheusMetrics()
    rate_limits = RateLimits()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await check_bind(settings, database)
        redis = async_redis_client(settings)
        async with PubSub(settings) as pubsub, redis:
            service = app.state.service = Service(settings, database, pubsub, redis, metrics, rate_limits)
            if is_loopback(settings.bind) and settings.admin_key is None:
                log.warning("no admin key is configured: without API keys only programs on this machine are served")
            loading = threading.Thread(target=load_statistics, name="statistics", daemon=True)
            starting = asyncio.get_running_loop().call_later(LOAD_STATISTICS_SECONDS, loading.start)
            try:
                with _run_on_signal(service.start_closing), _frozen_heap():
                    yield
            finally:
                starting.cancel()
                service.start_closing()
                service.close()
                await engine.dispose()
                await reading.dispose()

    app = FastAPI(
        title="ATFT-GAT-FAN jobs",
        version=version("atft"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        separate_input_output_schemas=False,
        dependencies=[Depends(store_route_template)],
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings
    app.state.database = database
    app.state.rate_limits = rate_limits
    for router in ROUTERS:
        app.include_router(router)
    pages.install(app)
    app.state.allowed_methods = _allowed_methods
    app.openapi = _cached(lambda: openapi.document(app))  # type: ignore[method-assign]  # FastAPI's own way to change the document
    errors.install(app)
    app.add_middleware(
        RequestMiddleware,
        max_body_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        metrics=metrics,
    )
    return app


@contextlib.contextmanager
def _frozen_heap() -> Iterator[None]:
    """Freeze what was loaded at startup and make full garbage collections rare: one that walked through it, or through
    a thousand open streams, would delay every request by tenths of a second (benchmarks/load.py).
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _cached(make: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    cached: list[dict[str, Any]] = []

    def get() -> dict[str, Any]:
        if not cached:
            cached.append(make())
        return cached[0]

    return get


def _allowed_methods(path: str) -> list[str]:
    """Every method that some route serves at this path: for `Allow`, which the framework fills from one route only."""
    allowed: set[str] = set()
    for router in (*ROUTERS, pages.router):
        for route in router.routes:
            pattern, methods = getattr(route, "path_regex", None), getattr(route, "methods", None)
            if pattern is not None and methods and pattern.match(path):
                allowed |= methods
    return sorted(allowed | ({"HEAD"} if "GET" in allowed else set()) or {"GET", "HEAD"})


@contextlib.contextmanager
def _run_on_signal(callback: Callable[[], None]) -> Iterator[None]:
    """Run `callback` on SIGTERM and SIGINT, before the server waits for open connections; its own handler runs too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, stack: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)
        previous = before[signal.Signals(number)]
        if callable(previous):
            previous(number, stack)

    handled = [number for number, previous in before.items() if callable(previous)]
    for number in handled:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in handled:
            if signal.getsignal(number) is handle:
                signal.signal(number, before[number])
