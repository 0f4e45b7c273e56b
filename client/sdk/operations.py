"""The service's operations without I/O: the requests to send and how to parse the responses. Both clients use them.

ServiceError
├── Unreachable   no connection, or still 503 after the last try
├── Refused       4xx: an invalid request; `problem` is the RFC 9457 body
└── Broken        any other 5xx, or a response that does not follow the API's schema
"""

import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, Literal, TypeVar

import httpx
import stamina
from httpx_sse import ServerSentEvent
from pydantic import BaseModel, JsonValue, ValidationError

from client.sdk.files import CountingReader, UploadProgress, as_mapping
from client.sdk.models import BestTrial, Comparison, DatasetPage, Event, Importance, Job, JobPage, Metrics, Trials

Json = Mapping[str, object]
ProgressCallback = Callable[[int, int], object]  # called with (bytes sent, bytes in total)
T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)
MAX_TRIES = 5  # about three seconds with the delays between them
MAX_RETRY_DELAY_SECONDS = 5.0
STREAM_TIMEOUT = httpx.Timeout(30, read=45)  # the server pings every 15 s: silence is a dead connection
UPLOAD_TIMEOUT = httpx.Timeout(30, write=600, read=600)
# stamina logs each retry; without a handler Python would print it to the stderr of a program that set up no logging
logging.getLogger("stamina").addHandler(logging.NullHandler())


class ServiceError(Exception):
    """Base class of the errors of both clients."""


class Unreachable(ServiceError):
    """The service could not be reached. `retry_after_seconds` is the Retry-After header of a 503."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class Broken(ServiceError):
    """The service failed (5xx), or its response does not follow the API's schema."""


class Refused(ServiceError):
    """The service refused the request (4xx). The message lists each invalid field."""

    def __init__(self, status: int, problem: dict[str, JsonValue]) -> None:
        self.status, self.problem = status, problem
        headline = f"{problem.get('title', 'refused')} ({status})"
        if problem.get("detail"):
            headline += f": {problem['detail']}"
        errors = problem.get("errors")
        listed = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
        details = [f"  {error.get('pointer') or error.get('parameter')}: {error.get('detail')}" for error in listed]
        super().__init__("\n".join([headline, *details]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[T]):
    """One request that is safe to retry: a read, an idempotent action, or a submit with an Idempotency-Key."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    options: Mapping[str, object] = field(default_factory=dict)
    max_tries: int = MAX_TRIES


def check_response(response: httpx.Response) -> httpx.Response:
    """The response, when its status is not an error. Raises ServiceError."""
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        delay = response.headers.get("Retry-After", "")
        raise Unreachable(
            f"{response.request.url.copy_with(path='')} returned 503: {response.text[:300]}",
            retry_after_seconds=float(delay) if delay.isdecimal() else None,
        )
    if not response.is_error:
        return response
    try:
        problem = as_dict(response)
    except Broken:
        problem = {"title": response.reason_phrase, "detail": response.text[:500]}
    if response.is_client_error:
        raise Refused(response.status_code, problem)
    raise Broken(
        f"{response.request.method} {response.request.url.path}: {response.status_code} "
        f"{problem.get('detail') or problem.get('title')} (request {problem.get('request_id', 'unknown')})"
    )


def as_dict(response: httpx.Response) -> dict[str, JsonValue]:
    try:
        body = response.json()
    except ValueError as error:
        raise Broken(f"{response.request.url.path}: the response is not JSON") from error
    if not isinstance(body, dict):
        raise Broken(f"{response.request.url.path}: the response is not an object")
    return body


def as_items(response: httpx.Response) -> list[dict[str, JsonValue]]:
    items = as_dict(response).get("items")
    if not isinstance(items, list):
        raise Broken(f"{response.request.url.path}: no items in the response")
    return [item for item in items if isinstance(item, dict)]


def parse_as(model: type[Model]) -> Callable[[httpx.Response], Model]:
    def read(response: httpx.Response) -> Model:
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise Broken(
                f"{response.request.url.path}: the response does not follow the API's schema: {error}"
            ) from error

    return read


@contextmanager
def transport_errors(url: str) -> Iterator[None]:
    """Raise Unreachable in the place of httpx's transport errors, of which some have no text."""
    try:
        yield
    except httpx.TransportError as error:
        raise Unreachable(f"{url}: {str(error) or type(error).__name__}") from error


def should_retry(error: Exception) -> bool | float:
    """Whether to retry after this error; for a 503 with a Retry-After header the delay in seconds."""
    if isinstance(error, Unreachable) and error.retry_after_seconds is not None:
        return min(error.retry_after_seconds, MAX_RETRY_DELAY_SECONDS)
    return isinstance(error, Unreachable)


# exponential backoff without jitter: 0.2 s, 0.4 s, …
retrying = partial(
    stamina.retry_context, should_retry, timeout=None, wait_initial=0.2, wait_max=MAX_RETRY_DELAY_SECONDS, wait_jitter=0
)


# -- operations


def submit(kind: str, spec: Json, key: str | None) -> Call[Job]:
    return Call(
        method="POST",
        path=f"/jobs/{kind}",
        parse=parse_as(Job),
        options={"json": spec, "headers": _key_header(key)},
    )


def plan(kind: str, spec: Json) -> Call[dict[str, JsonValue]]:
    return Call(
        method="POST", path=f"/jobs/{kind}", parse=as_dict, options={"json": spec, "params": {"dry_run": "true"}}
    )


def job(job_id: str) -> Call[Job]:
    return Call(method="GET", path=f"/jobs/{job_id}", parse=parse_as(Job))


def jobs(limit: int, cursor: str | None, filters: Mapping[str, str | None]) -> Call[JobPage]:
    given = {**filters, "cursor": cursor, "limit": str(limit)}
    params = {name: value for name, value in given.items() if value is not None}
    return Call(method="GET", path="/jobs", parse=parse_as(JobPage), options={"params": params})


def transition(job_id: str, action: Literal["cancel", "pause", "resume"]) -> Call[Job]:
    return Call(method="POST", path=f"/jobs/{job_id}/{action}", parse=parse_as(Job))


def rerun(job_id: str, kind: Literal["retry", "rerun"], key: str | None) -> Call[Job]:
    return Call(
        method="POST", path=f"/jobs/{job_id}/{kind}", parse=parse_as(Job), options={"headers": _key_header(key)}
    )


def promote(job_id: str, changes: Json | None, key: str | None) -> Call[Job]:
    body = {**(changes or {}), "as": "train"}
    return Call(
        method="POST",
        path=f"/jobs/{job_id}/promote",
        parse=parse_as(Job),
        options={"json": body, "headers": _key_header(key)},
    )


def metrics(job_id: str, names: Sequence[str], max_points: int | None) -> Call[Metrics]:
    params = [("name", name) for name in names]
    if max_points is not None:
        params.append(("max_points", str(max_points)))
    return Call(method="GET", path=f"/jobs/{job_id}/metrics", parse=parse_as(Metrics), options={"params": params})


def evidence(job_id: str) -> Call[dict[str, JsonValue]]:
    return Call(method="GET", path=f"/jobs/{job_id}/evidence", parse=as_dict)


def artifacts(job_id: str) -> Call[list[dict[str, JsonValue]]]:
    return Call(method="GET", path=f"/jobs/{job_id}/artifacts", parse=as_items)


def logs(job_id: str) -> Call[str]:
    return Call(method="GET", path=f"/jobs/{job_id}/logs", parse=lambda response: response.text)


def compare(job_ids: Sequence[str], metric: str | None, baselines: Sequence[str]) -> Call[Comparison]:
    params = [("job", job_id) for job_id in job_ids] + [("baseline", name) for name in baselines]
    if metric is not None:
        params.append(("metric", metric))
    return Call(method="GET", path="/compare", parse=parse_as(Comparison), options={"params": params})


def trials(job_id: str) -> Call[Trials]:
    return Call(method="GET", path=f"/jobs/{job_id}/trials", parse=parse_as(Trials))


def best(job_id: str) -> Call[BestTrial]:
    return Call(method="GET", path=f"/jobs/{job_id}/best", parse=parse_as(BestTrial))


def importance(job_id: str) -> Call[Importance]:
    return Call(method="GET", path=f"/jobs/{job_id}/importance", parse=parse_as(Importance))


def dataset_request(
    spec: Json, files: Mapping[str, Path | None], on_progress: ProgressCallback | None, stack: ExitStack
) -> dict[str, object]:
    """Request options of POST /datasets, for a plan or a registration; the files stay open as long as `stack`."""
    paths = {role: path for role, path in files.items() if path is not None}
    if not paths:
        return {"json": spec, "timeout": UPLOAD_TIMEOUT}
    side_specs = {role: {**as_mapping(spec.get(role)), "file": role} for role in paths if role != "file"}
    progress = UploadProgress(sum(path.stat().st_size for path in paths.values()), on_progress)
    parts: dict[str, object] = {"spec": (None, json.dumps({**spec, **side_specs}), "application/json")}
    for role, path in paths.items():
        parts[role] = (path.name, CountingReader(stack.enter_context(path.open("rb")), progress))
    return {"files": parts, "timeout": UPLOAD_TIMEOUT}


def add_dataset(request: Mapping[str, object], key: str | None) -> Call[Job]:
    # no retries for an upload: a stream that was partly read cannot be sent again
    max_tries = 1 if "files" in request else MAX_TRIES
    return Call(
        method="POST",
        path="/datasets",
        parse=parse_as(Job),
        options={**request, "headers": _key_header(key)},
        max_tries=max_tries,
    )


def plan_dataset(request: Mapping[str, object]) -> Call[dict[str, JsonValue]]:
    max_tries = 1 if "files" in request else MAX_TRIES
    planned = {**request, "params": {"dry_run": "true"}}
    return Call(method="POST", path="/datasets", parse=as_dict, options=planned, max_tries=max_tries)


def delete_dataset(ref: str) -> Call[None]:
    # no retries: after a lost response the second try would fail with 404
    return Call(method="DELETE", path=f"/datasets/{ref}", parse=lambda _: None, max_tries=1)


def datasets(cursor: str | None) -> Call[DatasetPage]:
    params = {} if cursor is None else {"cursor": cursor}
    return Call(method="GET", path="/datasets", parse=parse_as(DatasetPage), options={"params": params})


def dataset(ref: str) -> Call[dict[str, JsonValue]]:
    return Call(method="GET", path=f"/datasets/{ref}", parse=as_dict)


def workers() -> Call[list[dict[str, JsonValue]]]:
    return Call(method="GET", path="/workers", parse=as_items)


def _key_header(key: str | None) -> dict[str, str]:
    """The Idempotency-Key header; without the caller's own key a random one, so that retries create one job."""
    return {"Idempotency-Key": key or str(uuid.uuid4())}


def parse_event(frame: ServerSentEvent) -> Event | None:
    """The event of a frame; None for a frame without data (a ping, or the server's `retry:`)."""
    if not frame.data:
        return None
    try:
        data = frame.json()
    except ValueError as error:
        raise Broken(f"the data of a server-sent event is not JSON: {frame.data[:300]}") from error
    # the frame's id is the last one received, so that an event without an id has it too: `seq` is the event's own
    return Event(kind=frame.event, seq=data.get("seq"), body=data.get("body") or {})
