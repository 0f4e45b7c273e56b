"""The service over HTTP, typed and synchronous. Tries again what may be tried again, a bounded number of times.

ServiceError
├── Unreachable   no connection, or 503 to the last try
├── Refused       4xx: the request is wrong; `problem` is the RFC 9457 body
└── Broken        any other 5xx, or an answer that is not the contract's
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx
from pydantic import BaseModel, JsonValue, ValidationError

from client.sending import Counter, Watched, as_object
from client.views import BestTrial, Comparison, Event, Importance, Job, JobPage, Metrics, Trial, Trials

Json = Mapping[str, object]
Answer = TypeVar("Answer", bound=BaseModel)
TRIES = 5  # about three seconds of trying
LONGEST_PAUSE_SECONDS = 5.0


class ServiceError(Exception):
    """The service did not do what was asked."""


class Unreachable(ServiceError):
    """The service could not be reached."""


class Broken(ServiceError):
    """The service answered with an error of its own."""


class Refused(ServiceError):
    """The service refused the request."""

    def __init__(self, status: int, problem: dict[str, JsonValue]) -> None:
        self.status, self.problem = status, problem
        headline = f"{problem.get('title', 'refused')} ({status})"
        if problem.get("detail"):
            headline += f": {problem['detail']}"
        errors = problem.get("errors")
        listed = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
        details = [f"  {error.get('pointer') or error.get('parameter')}: {error.get('detail')}" for error in listed]
        super().__init__("\n".join([headline, *details]))


class Client:
    """`with Client(url) as service: job = service.submit("train", spec); service.wait(job.id)`"""

    def __init__(self, url: str, api_key: str | None = None, timeout_seconds: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # trust_env is off: a proxy in the environment must not stand between a client and its own loopback server
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout_seconds, trust_env=False)
        self.url = url.rstrip("/")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    # -- jobs

    def submit(self, kind: str, spec: Json, *, idempotency_key: str | None = None) -> Job:
        """`POST /jobs/{kind}`; without a key of the caller's own, one is made, so that a repeated try is one job."""
        return self._parse(Job, self._send("POST", f"/jobs/{kind}", json=spec, headers=_key(idempotency_key)))

    def plan(self, kind: str, spec: Json) -> dict[str, JsonValue]:
        return self._object(self._send("POST", f"/jobs/{kind}", json=spec, params={"dry_run": "true"}))

    def job(self, job_id: str) -> Job:
        return self._parse(Job, self._send("GET", f"/jobs/{job_id}"))

    def jobs(self, *, limit: int = 50, cursor: str | None = None, **filters: str | None) -> JobPage:
        params = {
            name: value
            for name, value in {**filters, "cursor": cursor, "limit": str(limit)}.items()
            if value is not None
        }
        return self._parse(JobPage, self._send("GET", "/jobs", params=params))

    def cancel(self, job_id: str) -> Job:
        return self._parse(Job, self._send("POST", f"/jobs/{job_id}/cancel"))

    def wait(self, job_id: str, timeout_seconds: float | None = None) -> Job:
        """Until a terminal state. Raises TimeoutError."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not (job := self.job(job_id)).done:
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"job {job_id} is still {job.state} after {timeout_seconds:.0f} s")
            time.sleep(0.3)
        return job

    def metrics(self, job_id: str, names: Sequence[str] = (), max_points: int | None = None) -> Metrics:
        params: list[tuple[str, str]] = [("name", name) for name in names]
        if max_points is not None:
            params.append(("max_points", str(max_points)))
        return self._parse(Metrics, self._send("GET", f"/jobs/{job_id}/metrics", params=params))

    def evidence(self, job_id: str) -> dict[str, JsonValue]:
        return self._object(self._send("GET", f"/jobs/{job_id}/evidence"))

    def compare(
        self, job_ids: Sequence[str], *, metric: str | None = None, baselines: Sequence[str] = ()
    ) -> Comparison:
        """Jobs side by side with a paired test; without a metric, by the service's default, which is on test days."""
        params = [("job", job_id) for job_id in job_ids] + [("baseline", name) for name in baselines]
        if metric is not None:
            params.append(("metric", metric))
        return self._parse(Comparison, self._send("GET", "/compare", params=params))

    # -- studies

    def hpo(self, spec: Json, *, idempotency_key: str | None = None) -> Job:
        """Submit a study; its trials are jobs of their own."""
        return self.submit("hpo", spec, idempotency_key=idempotency_key)

    def trials(self, job_id: str) -> list[Trial]:
        """Of a study, by number."""
        return self._parse(Trials, self._send("GET", f"/jobs/{job_id}/trials")).items

    def best(self, job_id: str) -> BestTrial:
        """Of a study so far. Raises Refused (404) while no trial has a value."""
        return self._parse(BestTrial, self._send("GET", f"/jobs/{job_id}/best"))

    def importance(self, job_id: str) -> Importance:
        """Of an ended study's parameters. Raises Refused (404) before its end."""
        return self._parse(Importance, self._send("GET", f"/jobs/{job_id}/importance"))

    def promote(self, job_id: str, changes: Json | None = None, *, idempotency_key: str | None = None) -> Job:
        """A study's best trial, or the job itself, in full; `changes` are such as `{"trainer.max_epochs": 9}`."""
        body = {**(changes or {}), "as": "train"}
        return self._parse(
            Job, self._send("POST", f"/jobs/{job_id}/promote", json=body, headers=_key(idempotency_key))
        )

    # -- logs and events

    def logs(self, job_id: str) -> str:
        return self._send("GET", f"/jobs/{job_id}/logs").text

    def follow_logs(self, job_id: str) -> Iterator[str]:
        """Pieces of the log as they are written; ends with the job."""
        try:
            with self._http.stream(
                "GET", f"/jobs/{job_id}/logs", params={"follow": "true"}, timeout=httpx.Timeout(30, read=None)
            ) as answer:
                if answer.is_error:
                    answer.read()
                self._checked(answer)
                yield from answer.iter_text()
        except httpx.TransportError as error:
            raise Unreachable(f"{self.url}: {error}") from error

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """Every durable event once, in order, with the progress between them; ends with the `end` event.

        A cut stream goes on after the last id, a bounded number of times without news.
        """
        failures = 0
        while True:
            try:
                timeout = httpx.Timeout(30, read=45)  # the server pings every 15 s: silence is a dead connection
                with self._http.stream(
                    "GET", f"/jobs/{job_id}/events", headers={"Last-Event-ID": str(after)}, timeout=timeout
                ) as answer:
                    if answer.status_code == httpx.codes.NO_CONTENT:  # nothing after `after`, and nothing will come
                        return
                    if answer.is_error:
                        answer.read()
                    self._checked(answer)
                    for event in _events(answer.iter_lines()):
                        failures = 0
                        after = after if event.seq is None else event.seq
                        yield event
                        if event.kind == "end":
                            return
                    problem = "the stream ended early"
            except (httpx.TransportError, Unreachable) as error:
                problem = str(error)
            failures += 1
            if failures > TRIES:
                raise Unreachable(f"{self.url}: {problem}")
            time.sleep(_pause(failures, None))

    # -- datasets

    def add_dataset(
        self,
        spec: Json,
        *,
        file: Path | None = None,
        universe: Path | None = None,
        market: Path | None = None,
        sent: Callable[[int, int], object] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Register a panel: with `file` by upload (and `universe`, `market` beside it), else as `spec` says (a server
        path, or planted). `sent` hears how many bytes of how many have gone out.
        """
        return self._parse(Job, self._post_dataset(spec, (file, universe, market), sent, _key(idempotency_key), {}))

    def plan_dataset(
        self,
        spec: Json,
        *,
        file: Path | None = None,
        universe: Path | None = None,
        market: Path | None = None,
        sent: Callable[[int, int], object] | None = None,
    ) -> dict[str, JsonValue]:
        """What registering would build. Nothing is stored."""
        return self._object(self._post_dataset(spec, (file, universe, market), sent, {}, {"dry_run": "true"}))

    def _post_dataset(
        self,
        spec: Json,
        given: Sequence[Path | None],
        sent: Callable[[int, int], object] | None,
        headers: dict[str, str],
        params: dict[str, str],
    ) -> httpx.Response:
        roles = zip(("file", "universe", "market"), given, strict=True)
        paths = {role: path for role, path in roles if path is not None}
        limits = httpx.Timeout(30, write=600, read=600)
        if not paths:
            return self._send("POST", "/datasets", json=spec, headers=headers, params=params, timeout=limits)
        sides = {role: {**as_object(spec.get(role)), "file": role} for role in paths if role != "file"}
        with ExitStack() as stack:
            counter = Counter(sum(path.stat().st_size for path in paths.values()), sent)
            files: dict[str, object] = {"spec": (None, json.dumps({**spec, **sides}), "application/json")}
            for role, path in paths.items():
                files[role] = (path.name, Watched(stack.enter_context(path.open("rb")), counter))
            # one try: a stream that was read halfway cannot be sent again
            return self._send(
                "POST", "/datasets", files=files, headers=headers, params=params, tries=1, timeout=limits
            )

    def delete_dataset(self, ref: str) -> None:
        """A dataset, or one version of it (`name@version`). Raises Refused (409) while unfinished jobs need it."""
        self._send("DELETE", f"/datasets/{ref}")

    def datasets(self) -> list[dict[str, JsonValue]]:
        items = self._object(self._send("GET", "/datasets")).get("items")
        if not isinstance(items, list):
            raise Broken("GET /datasets: no items in the answer")
        return [item for item in items if isinstance(item, dict)]

    def dataset(self, name: str) -> dict[str, JsonValue]:
        return self._object(self._send("GET", f"/datasets/{name}"))

    # -- the service

    def workers(self) -> list[dict[str, JsonValue]]:
        answer = self._send("GET", "/workers").json()
        items = answer.get("items") if isinstance(answer, dict) else answer
        return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []

    def ready(self) -> bool:
        """One try: `/readyz` says yes."""
        try:
            return self._http.get("/readyz", timeout=5).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    # -- plumbing

    def _send(self, method: str, path: str, *, tries: int = TRIES, **request: object) -> httpx.Response:
        """Every call of this class is repeatable: reads, idempotent moves, and submits with a key."""
        for attempt in range(1, tries + 1):
            wait: str | None = None
            try:
                answer = self._http.request(method, path, **request)  # type: ignore[arg-type]  # the union of httpx's keyword arguments
            except httpx.TransportError as error:
                problem = f"{self.url}: {error or type(error).__name__}"
            else:
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return self._checked(answer)
                problem, wait = f"{self.url} answers 503: {answer.text[:300]}", answer.headers.get("Retry-After")
            if attempt < tries:
                time.sleep(_pause(attempt, wait))
        raise Unreachable(problem)

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise Unreachable(f"{self.url} answers 503")
        if not answer.is_error:
            return answer
        try:
            problem = self._object(answer)
        except Broken:
            problem = {"title": answer.reason_phrase, "detail": answer.text[:500]}
        if answer.is_client_error:
            raise Refused(answer.status_code, problem)
        raise Broken(
            f"{answer.request.method} {answer.request.url.path}: {answer.status_code} "
            f"{problem.get('detail') or problem.get('title')}"
            f" (request {problem.get('request_id', 'unknown')})"
        )

    def _object(self, answer: httpx.Response) -> dict[str, JsonValue]:
        try:
            body = answer.json()
        except ValueError as error:
            raise Broken(f"{answer.request.url.path}: the answer is not JSON") from error
        if not isinstance(body, dict):
            raise Broken(f"{answer.request.url.path}: the answer is not an object")
        return body

    def _parse(self, model: type[Answer], answer: httpx.Response) -> Answer:
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            raise Broken(f"{answer.request.url.path}: not the contract's answer: {error}") from error


def _key(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or str(uuid.uuid4())}


def _pause(attempt: int, retry_after: str | None) -> float:
    if retry_after is not None and retry_after.isdigit():
        return min(float(retry_after), LONGEST_PAUSE_SECONDS)
    return min(0.2 * 2.0 ** (attempt - 1), LONGEST_PAUSE_SECONDS)


def _events(lines: Iterator[str]) -> Iterator[Event]:
    """The server's frames: `event:`, `id:` and `data:` lines, ended by an empty line; comments are pings."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and "data" in fields else value
            continue
        if "data" in fields:
            data = json.loads(fields["data"])
            identity = fields.get("id", "")
            yield Event(
                kind=fields.get("event", "message"),
                seq=int(identity) if identity.isdigit() else None,
                body=data.get("body") or {},
            )
        fields = {}
