"""The asynchronous twin of `client.sdk`, method by method: the same calls, awaited."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

import httpx
from pydantic import JsonValue, PrivateAttr

from client.sdk import operations
from client.sdk.files import whole
from client.sdk.models import BestTrial, Comparison, Event, Importance, Job, JobPage, Metrics, Trial
from client.sdk.operations import Call, Json, Sent, ServiceError, Unreachable

__all__ = ["AsyncClient", "AsyncJob"]
T = TypeVar("T")
POLL_SECONDS = 0.3


class AsyncClient:
    """`async with AsyncClient(url) as service: job = await (await service.train(spec)).wait()`"""

    def __init__(self, url: str, api_key: str | None = None, timeout_seconds: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # trust_env is off: a proxy in the environment must not stand between a client and its own loopback server
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
        """`POST /jobs/{kind}`; a call that is repeated with the caller's own key and the same spec is one job."""
        return await self._live(operations.submit(kind, spec, idempotency_key))

    async def train(self, spec: Json, *, idempotency_key: str | None = None) -> "AsyncJob":
        return await self.submit("train", spec, idempotency_key=idempotency_key)

    async def pretrain(self, spec: Json, *, idempotency_key: str | None = None) -> "AsyncJob":
        """Pretrain an encoder; a later training begins with it by `"init_from": job.id`."""
        return await self.submit("pretrain", spec, idempotency_key=idempotency_key)

    async def ensemble(self, spec: Json, *, idempotency_key: str | None = None) -> "AsyncJob":
        """One training for each seed, their scores averaged by rank: `{base, seeds}`."""
        return await self.submit("ensemble", spec, idempotency_key=idempotency_key)

    async def hpo(self, spec: Json, *, idempotency_key: str | None = None) -> "AsyncJob":
        """Submit a study; its trials are jobs of their own."""
        return await self.submit("hpo", spec, idempotency_key=idempotency_key)

    async def predict(self, spec: Json, *, idempotency_key: str | None = None) -> "AsyncJob":
        """Scores for a range of days: `{model, dataset, from_day, to_day}`; its artifact is predictions.parquet."""
        return await self.submit("predict", spec, idempotency_key=idempotency_key)

    async def plan(self, kind: str, spec: Json) -> dict[str, JsonValue]:
        """What a job would be. Nothing is stored."""
        return await self._do(operations.plan(kind, spec))

    async def job(self, job_id: str) -> "AsyncJob":
        return await self._live(operations.job(job_id))

    async def jobs(self, *, limit: int = 50, cursor: str | None = None, **filters: str | None) -> JobPage:
        return await self._do(operations.jobs(limit, cursor, filters))

    async def cancel(self, job_id: str) -> "AsyncJob":
        return await self._live(operations.move(job_id, "cancel"))

    async def pause(self, job_id: str) -> "AsyncJob":
        """Saves a checkpoint and frees the device."""
        return await self._live(operations.move(job_id, "pause"))

    async def resume(self, job_id: str) -> "AsyncJob":
        return await self._live(operations.move(job_id, "resume"))

    async def again(
        self, job_id: str, how: Literal["retry", "rerun"], *, idempotency_key: str | None = None
    ) -> "AsyncJob":
        """A new job: `retry` goes on where a failed or cancelled one ended, `rerun` repeats a succeeded one."""
        return await self._live(operations.again(job_id, how, idempotency_key))

    async def wait(self, job_id: str, timeout_seconds: float | None = None) -> "AsyncJob":
        """Until a terminal state. Raises TimeoutError."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not (job := await self.job(job_id)).done:
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"job {job_id} is still {job.state} after {timeout_seconds:.0f} s")
            await asyncio.sleep(POLL_SECONDS)
        return job

    async def metrics(self, job_id: str, names: Sequence[str] = (), max_points: int | None = None) -> Metrics:
        """Series whose name starts with one of `names`; all without any."""
        return await self._do(operations.metrics(job_id, names, max_points))

    async def evidence(self, job_id: str) -> dict[str, JsonValue]:
        return await self._do(operations.evidence(job_id))

    async def artifacts(self, job_id: str) -> list[dict[str, JsonValue]]:
        """A job's whole files: name, size, SHA-256, link."""
        return await self._do(operations.artifacts(job_id))

    async def download(self, link: str, file: Path) -> Path:
        """Write what `link` answers (an artifact's, or `/jobs/ID/tensorboard`) to `file`, which is there only whole."""
        try:
            with whole(file) as out:
                async with self._http.stream("GET", link, timeout=operations.STREAM_TIMEOUT) as answer:
                    if answer.is_error:
                        await answer.aread()
                    operations.checked(answer)
                    async for piece in answer.aiter_bytes():
                        out.write(piece)
        except httpx.TransportError as error:
            raise Unreachable(f"{self.url}: {error}") from error
        return file

    async def compare(
        self, job_ids: Sequence[str], *, metric: str | None = None, baselines: Sequence[str] = ()
    ) -> Comparison:
        """Jobs side by side with a paired test; without a metric, by the service's default, which is on test days."""
        return await self._do(operations.compare(job_ids, metric, baselines))

    # -- studies

    async def trials(self, job_id: str) -> list[Trial]:
        """Of a study, by number."""
        return (await self._do(operations.trials(job_id))).items

    async def best(self, job_id: str) -> BestTrial:
        """Of a study so far. Raises Refused (404) while no trial has a value."""
        return await self._do(operations.best(job_id))

    async def importance(self, job_id: str) -> Importance:
        """Of an ended study's parameters. Raises Refused (404) before its end."""
        return await self._do(operations.importance(job_id))

    async def promote(
        self, job_id: str, changes: Json | None = None, *, idempotency_key: str | None = None
    ) -> "AsyncJob":
        """A study's best trial, or the job itself, in full; `changes` are such as `{"trainer.max_epochs": 9}`."""
        return await self._live(operations.promote(job_id, changes, idempotency_key))

    # -- logs and events

    async def logs(self, job_id: str) -> str:
        return await self._do(operations.logs(job_id))

    async def follow_logs(self, job_id: str) -> AsyncIterator[str]:
        """Pieces of the log as they are written; ends with the job."""
        timeout = httpx.Timeout(30, read=None)
        try:
            async with self._http.stream(
                "GET", f"/jobs/{job_id}/logs", params={"follow": "true"}, timeout=timeout
            ) as answer:
                if answer.is_error:
                    await answer.aread()
                operations.checked(answer)
                async for piece in answer.aiter_text():
                    yield piece
        except httpx.TransportError as error:
            raise Unreachable(f"{self.url}: {error}") from error

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[Event]:
        """Every durable event once, in order, with the progress between them; ends with the `end` event.

        A cut stream goes on after the last id, a bounded number of times without news.
        """
        failures = 0
        while True:
            try:
                headers = {"Last-Event-ID": str(after)}
                async with self._http.stream(
                    "GET", f"/jobs/{job_id}/events", headers=headers, timeout=operations.STREAM_TIMEOUT
                ) as answer:
                    if answer.status_code == httpx.codes.NO_CONTENT:  # nothing after `after`, and nothing will come
                        return
                    if answer.is_error:
                        await answer.aread()
                    operations.checked(answer)
                    frames = operations.Frames()
                    async for line in answer.aiter_lines():
                        if (event := frames.feed(line)) is None:
                            continue
                        failures = 0
                        after = after if event.seq is None else event.seq
                        yield event
                        if event.kind == "end":
                            return
                    problem = "the stream ended early"
            except (httpx.TransportError, Unreachable) as error:
                problem = str(error)
            failures += 1
            if failures > operations.TRIES:
                raise Unreachable(f"{self.url}: {problem}")
            await asyncio.sleep(operations.pause_seconds(failures))

    # -- datasets

    async def add_dataset(
        self,
        spec: Json,
        *,
        file: Path | None = None,
        universe: Path | None = None,
        market: Path | None = None,
        sent: Sent | None = None,
        idempotency_key: str | None = None,
    ) -> "AsyncJob":
        """Register a panel: with `file` by upload (and `universe`, `market` beside it), else as `spec` says (a server
        path, or planted). `sent` hears how many bytes of how many have gone out.
        """
        with ExitStack() as stack:
            files = {"file": file, "universe": universe, "market": market}
            request = operations.dataset_request(spec, files, sent, stack)
            return await self._live(operations.add_dataset(request, idempotency_key))

    async def plan_dataset(
        self,
        spec: Json,
        *,
        file: Path | None = None,
        universe: Path | None = None,
        market: Path | None = None,
        sent: Sent | None = None,
    ) -> dict[str, JsonValue]:
        """What registering would build. Nothing is stored."""
        with ExitStack() as stack:
            files = {"file": file, "universe": universe, "market": market}
            return await self._do(operations.plan_dataset(operations.dataset_request(spec, files, sent, stack)))

    async def delete_dataset(self, ref: str) -> None:
        """A dataset, or one version of it (`name@version`). Raises Refused (409) while unfinished jobs need it."""
        await self._do(operations.delete_dataset(ref))

    async def datasets(self) -> list[dict[str, JsonValue]]:
        """All of them, each in its newest version."""
        page = await self._do(operations.datasets(None))
        found = page.items
        while page.next_cursor is not None:
            page = await self._do(operations.datasets(page.next_cursor))
            found = found + page.items
        return found

    async def dataset(self, name: str) -> dict[str, JsonValue]:
        return await self._do(operations.dataset(name))

    # -- the service

    async def workers(self) -> list[dict[str, JsonValue]]:
        return await self._do(operations.workers())

    async def ready(self) -> bool:
        """One try: `/readyz` says yes."""
        try:
            return (await self._http.get("/readyz", timeout=5)).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    # -- plumbing

    async def _live(self, call: Call[Job]) -> "AsyncJob":
        return AsyncJob.of(await self._do(call), self)

    async def _do(self, call: Call[T]) -> T:
        for attempt in range(1, call.tries + 1):
            answer: httpx.Response | None = None
            problem: ServiceError
            try:
                answer = await self._http.request(call.method, call.path, **call.request)  # type: ignore[arg-type]  # httpx's keyword arguments
                return call.read(operations.checked(answer))
            except httpx.TransportError as error:
                problem = Unreachable(f"{self.url}: {error or type(error).__name__}")
            except Unreachable as error:
                problem = error
            if attempt < call.tries:
                await asyncio.sleep(operations.pause_seconds(attempt, answer))
        raise problem


class AsyncJob(Job):
    """A job as it was when it was last asked for, and what can be done with it."""

    _service: AsyncClient = PrivateAttr()

    @classmethod
    def of(cls, job: Job, service: AsyncClient) -> "AsyncJob":
        live = cls.model_validate(job.model_dump(by_alias=True, exclude_unset=True))
        live._service = service
        return live

    async def refresh(self) -> "AsyncJob":
        return await self._service.job(self.id)

    async def wait(self, timeout_seconds: float | None = None) -> "AsyncJob":
        """Until a terminal state. Raises TimeoutError."""
        return await self._service.wait(self.id, timeout_seconds)

    def stream(self, after: int = 0) -> AsyncIterator[Event]:
        """Its events, each once, until its end; see `AsyncClient.events`."""
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
