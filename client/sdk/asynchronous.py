"""The asynchronous client of the service. `python -m client.sdk.generate` makes the synchronous one from this file."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx
from httpx_sse import EventSource
from pydantic import JsonValue, PrivateAttr

from client.sdk import operations
from client.sdk.files import atomic_write
from client.sdk.models import BestTrial, Comparison, Event, Importance, Job, JobPage, Metrics, Trial
from client.sdk.operations import Broken, Call, Json, ProgressCallback, Refused, ServiceError, Unreachable

__all__ = ["AsyncClient", "AsyncJob", "Broken", "Refused", "ServiceError", "Unreachable"]
T = TypeVar("T")
POLL_SECONDS = 0.3


class AsyncClient:
    """`async with AsyncClient(url) as service: job = await service.train(spec)`"""

    def __init__(self, url: str, api_key: str | None = None, timeout_seconds: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # trust_env is off: a proxy in the environment must not intercept requests to a loopback server
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"), headers=headers, timeout=timeout_seconds, trust_env=False
        )
        self.url = url.rstrip("/")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    # -- jobs

    async def submit(self, kind: str, spec: Json, *, idempotency_key: str | None = None) -> "AsyncJob":
        """`POST /jobs/{kind}`; repeated calls with the same `idempotency_key` and spec create one job."""
        return await self._send_for_job(operations.submit(kind, spec, idempotency_key))

    async def train(self, spec: Json, *, idempotency_key: str | None = None) -> "AsyncJob":
        return await self.submit("train", spec, idempotency_key=idempotency_key)

    async def pretrain(self, spec: Json, *, idempotency_key: str | None = None) -> "AsyncJob":
        """Pretrain an encoder; a training starts from its weights with `"init_from": job.id`."""
        return await self.submit("pretrain", spec, idempotency_key=idempotency_key)

    async def ensemble(self, spec: Json, *, idempotency_key: str | None = None) -> "AsyncJob":
        """Train once for each seed and average the scores by rank; the spec is `{base, seeds}`."""
        return await self.submit("ensemble", spec, idempotency_key=idempotency_key)

    async def hpo(self, spec: Json, *, idempotency_key: str | None = None) -> "AsyncJob":
        """Submit a study; each of its trials is a job."""
        return await self.submit("hpo", spec, idempotency_key=idempotency_key)

    async def predict(self, spec: Json, *, idempotency_key: str | None = None) -> "AsyncJob":
        """Score a range of days: `{model, dataset, from_day, to_day}`; the artifact is predictions.parquet."""
        return await self.submit("predict", spec, idempotency_key=idempotency_key)

    async def plan(self, kind: str, spec: Json) -> dict[str, JsonValue]:
        """Dry run of a submit: the resolved spec, days and steps. Nothing is stored."""
        return await self._send(operations.plan(kind, spec))

    async def job(self, job_id: str) -> "AsyncJob":
        return await self._send_for_job(operations.job(job_id))

    async def jobs(self, *, limit: int = 50, cursor: str | None = None, **filters: str | None) -> JobPage:
        return await self._send(operations.jobs(limit, cursor, filters))

    async def cancel(self, job_id: str) -> "AsyncJob":
        return await self._send_for_job(operations.transition(job_id, "cancel"))

    async def pause(self, job_id: str) -> "AsyncJob":
        """Pause a job: it saves a checkpoint and frees its device."""
        return await self._send_for_job(operations.transition(job_id, "pause"))

    async def resume(self, job_id: str) -> "AsyncJob":
        return await self._send_for_job(operations.transition(job_id, "resume"))

    async def retry(self, job_id: str, *, idempotency_key: str | None = None) -> "AsyncJob":
        """A new job that continues a failed or cancelled one from its last checkpoint."""
        return await self._send_for_job(operations.rerun(job_id, "retry", idempotency_key))

    async def rerun(self, job_id: str, *, idempotency_key: str | None = None) -> "AsyncJob":
        """A new job that repeats a succeeded one from the start and reports differences in its message."""
        return await self._send_for_job(operations.rerun(job_id, "rerun", idempotency_key))

    async def wait(self, job_id: str, timeout_seconds: float | None = None) -> "AsyncJob":
        """Poll until the job is in a terminal state. Raises TimeoutError."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not (job := await self.job(job_id)).done:
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"job {job_id} is still {job.state} after {timeout_seconds:.0f} s")
            await asyncio.sleep(POLL_SECONDS)
        return job

    async def metrics(self, job_id: str, names: Sequence[str] = (), max_points: int | None = None) -> Metrics:
        """Series whose name starts with one of `names`; without names, all."""
        return await self._send(operations.metrics(job_id, names, max_points))

    async def evidence(self, job_id: str) -> dict[str, JsonValue]:
        return await self._send(operations.evidence(job_id))

    async def artifacts(self, job_id: str) -> list[dict[str, JsonValue]]:
        """A job's artifacts: name, size, SHA-256, link."""
        return await self._send(operations.artifacts(job_id))

    async def download(self, link: str, file: Path) -> Path:
        """Save the body of `GET link` (an artifact, or `/jobs/ID/tensorboard`) as `file`, atomically."""
        with atomic_write(file) as out:
            async with self._stream(link, timeout=operations.STREAM_TIMEOUT) as response:
                async for chunk in response.aiter_bytes():
                    out.write(chunk)
        return file

    async def compare(
        self, job_ids: Sequence[str], *, metric: str | None = None, baselines: Sequence[str] = ()
    ) -> Comparison:
        """Compare jobs by a paired test; the default metric is the service's, on test days."""
        return await self._send(operations.compare(job_ids, metric, baselines))

    # -- studies

    async def trials(self, job_id: str) -> list[Trial]:
        """The trials of a study, sorted by number."""
        found = await self._send(operations.trials(job_id))
        return found.items

    async def best(self, job_id: str) -> BestTrial:
        """The best trial of a study so far. Raises Refused (404) while no trial has a value."""
        return await self._send(operations.best(job_id))

    async def importance(self, job_id: str) -> Importance:
        """Parameter importance of a finished study. Raises Refused (404) before its end."""
        return await self._send(operations.importance(job_id))

    async def promote(
        self, job_id: str, changes: Json | None = None, *, idempotency_key: str | None = None
    ) -> "AsyncJob":
        """Submit a study's best trial, or the job itself, as a training; `changes` as `{"trainer.max_epochs": 9}`."""
        return await self._send_for_job(operations.promote(job_id, changes, idempotency_key))

    # -- logs and events

    async def logs(self, job_id: str) -> str:
        return await self._send(operations.logs(job_id))

    async def follow_logs(self, job_id: str) -> AsyncIterator[str]:
        """Stream the log as it is written, until the job ends."""
        timeout = httpx.Timeout(30, read=None)
        async with self._stream(f"/jobs/{job_id}/logs", params={"follow": "true"}, timeout=timeout) as response:
            async for chunk in response.aiter_text():
                yield chunk

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[Event]:
        """Every stored event once, in order, with the progress events between them; ends with the `end` event.

        A broken stream is reopened after the last event id; it gives up after MAX_TRIES times without an event.
        """
        stream = self._read_events(job_id, after)
        try:
            while True:
                async for attempt in operations.retrying(attempts=1 + operations.MAX_TRIES):
                    with attempt:
                        if attempt.num > 1:
                            stream = self._read_events(job_id, after)
                        event = await anext(stream, None)
                if event is None:  # the job has ended and has no event after `after`
                    return
                after = after if event.seq is None else event.seq
                yield event
                if event.kind == "end":
                    return
        finally:
            await stream.aclose()

    # -- datasets

    async def add_dataset(
        self,
        spec: Json,
        *,
        file: Path | None = None,
        universe: Path | None = None,
        market: Path | None = None,
        on_progress: ProgressCallback | None = None,
        idempotency_key: str | None = None,
    ) -> "AsyncJob":
        """Register a panel: `file` is uploaded (with `universe` and `market`), else `spec` names the source (a server
        path, or planted). `on_progress` is called with the bytes sent and in total.
        """
        with ExitStack() as stack:
            files = {"file": file, "universe": universe, "market": market}
            request = operations.dataset_request(spec, files, on_progress, stack)
            return await self._send_for_job(operations.add_dataset(request, idempotency_key))

    async def plan_dataset(
        self,
        spec: Json,
        *,
        file: Path | None = None,
        universe: Path | None = None,
        market: Path | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> dict[str, JsonValue]:
        """Dry run of a registration: what would be built. Nothing is stored."""
        with ExitStack() as stack:
            files = {"file": file, "universe": universe, "market": market}
            return await self._send(
                operations.plan_dataset(operations.dataset_request(spec, files, on_progress, stack))
            )

    async def delete_dataset(self, ref: str) -> None:
        """Delete a dataset or one version (`name@version`). Raises Refused (409) while unfinished jobs use it."""
        await self._send(operations.delete_dataset(ref))

    async def datasets(self) -> list[dict[str, JsonValue]]:
        """All datasets, each in its newest version."""
        page = await self._send(operations.datasets(None))
        found = page.items
        while page.next_cursor is not None:
            page = await self._send(operations.datasets(page.next_cursor))
            found = found + page.items
        return found

    async def dataset(self, name: str) -> dict[str, JsonValue]:
        return await self._send(operations.dataset(name))

    # -- the service

    async def workers(self) -> list[dict[str, JsonValue]]:
        return await self._send(operations.workers())

    async def ready(self) -> bool:
        """Whether `/readyz` returns 200; no retries."""
        try:
            response = await self._http.get("/readyz", timeout=5)
        except httpx.TransportError:
            return False
        return response.status_code == httpx.codes.OK

    # -- plumbing

    async def _send_for_job(self, call: Call[Job]) -> "AsyncJob":
        return AsyncJob.of(await self._send(call), self)

    async def _send(self, call: Call[T]) -> T:
        async for attempt in operations.retrying(attempts=call.max_tries):
            with attempt, operations.transport_errors(self.url):
                response = await self._http.request(call.method, call.path, **call.options)  # type: ignore[arg-type]  # httpx's keyword arguments
                operations.check_response(response)
        return call.parse(response)

    @asynccontextmanager
    async def _stream(self, path: str, **options: object) -> AsyncIterator[httpx.Response]:
        """The response of a GET whose body is read as it arrives."""
        with operations.transport_errors(self.url):
            async with self._http.stream("GET", path, **options) as response:  # type: ignore[arg-type]  # httpx's keyword arguments
                if response.is_error:
                    await response.aread()
                yield operations.check_response(response)

    async def _read_events(self, job_id: str, after: int) -> AsyncGenerator[Event]:
        """The events of one connection, none when the job has no more. Raises Unreachable at an early end."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        path = f"/jobs/{job_id}/events"
        async with self._stream(path, headers=headers, timeout=operations.STREAM_TIMEOUT) as response:
            if response.status_code == httpx.codes.NO_CONTENT:
                return
            async for frame in EventSource(response).aiter_sse():
                if (event := operations.parse_event(frame)) is not None:
                    yield event
        raise Unreachable(f"{self.url}: the stream ended early")


class AsyncJob(Job):
    """Snapshot of a job, with methods that call the service; `refresh` reads it again."""

    _service: AsyncClient = PrivateAttr()

    @classmethod
    def of(cls, job: Job, service: AsyncClient) -> "AsyncJob":
        live = cls.model_validate(job.model_dump(by_alias=True, exclude_unset=True))
        live._service = service
        return live

    async def refresh(self) -> "AsyncJob":
        return await self._service.job(self.id)

    async def wait(self, timeout_seconds: float | None = None) -> "AsyncJob":
        """Poll until the job is in a terminal state. Raises TimeoutError."""
        return await self._service.wait(self.id, timeout_seconds)

    def stream(self, after: int = 0) -> AsyncIterator[Event]:
        """The job's events, each once, until its end; see `AsyncClient.events`."""
        return self._service.events(self.id, after)

    async def metrics(self, *names: str, max_points: int | None = None) -> Metrics:
        return await self._service.metrics(self.id, names, max_points)

    async def evidence(self) -> dict[str, JsonValue]:
        return await self._service.evidence(self.id)

    async def logs(self) -> str:
        return await self._service.logs(self.id)

    async def cancel(self) -> "AsyncJob":
        return await self._service.cancel(self.id)

    async def trials(self) -> list[Trial]:
        return await self._service.trials(self.id)

    async def best(self) -> BestTrial:
        return await self._service.best(self.id)

    async def promote(self, changes: Json | None = None) -> "AsyncJob":
        return await self._service.promote(self.id, changes)
