"""The service's operations without any I/O: what is sent, and what the answer means. Both clients send these.

ServiceError
├── Unreachable   no connection, or 503 to the last try
├── Refused       4xx: the request is wrong; `problem` is the RFC 9457 body
└── Broken        any other 5xx, or an answer that is not the contract's
"""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

import httpx
from pydantic import BaseModel, JsonValue, ValidationError

from client.sdk.files import Counter, Watched, as_object
from client.sdk.models import BestTrial, Comparison, DatasetPage, Event, Importance, Job, JobPage, Metrics, Trials

Json = Mapping[str, object]
Sent = Callable[[int, int], object]  # hears how many bytes of how many have gone out
T = TypeVar("T")
Answer = TypeVar("Answer", bound=BaseModel)
TRIES = 5  # about three seconds of trying
LONGEST_PAUSE_SECONDS = 5.0
STREAM_TIMEOUT = httpx.Timeout(30, read=45)  # the server pings every 15 s: silence is a dead connection
UPLOAD_TIMEOUT = httpx.Timeout(30, write=600, read=600)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[T]):
    """One request that may be sent again: a read, an idempotent move, or a submit with a key."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    request: Mapping[str, object] = field(default_factory=dict)
    tries: int = TRIES


def checked(answer: httpx.Response) -> httpx.Response:
    """The answer if it is none of an error. Raises ServiceError."""
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise Unreachable(f"{answer.request.url.copy_with(path='')} answers 503: {answer.text[:300]}")
    if not answer.is_error:
        return answer
    try:
        problem = as_dict(answer)
    except Broken:
        problem = {"title": answer.reason_phrase, "detail": answer.text[:500]}
    if answer.is_client_error:
        raise Refused(answer.status_code, problem)
    raise Broken(
        f"{answer.request.method} {answer.request.url.path}: {answer.status_code} "
        f"{problem.get('detail') or problem.get('title')} (request {problem.get('request_id', 'unknown')})"
    )


def as_dict(answer: httpx.Response) -> dict[str, JsonValue]:
    try:
        body = answer.json()
    except ValueError as error:
        raise Broken(f"{answer.request.url.path}: the answer is not JSON") from error
    if not isinstance(body, dict):
        raise Broken(f"{answer.request.url.path}: the answer is not an object")
    return body


def as_items(answer: httpx.Response) -> list[dict[str, JsonValue]]:
    items = as_dict(answer).get("items")
    if not isinstance(items, list):
        raise Broken(f"{answer.request.url.path}: no items in the answer")
    return [item for item in items if isinstance(item, dict)]


def parsed(model: type[Answer]) -> Callable[[httpx.Response], Answer]:
    def read(answer: httpx.Response) -> Answer:
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            raise Broken(f"{answer.request.url.path}: not the contract's answer: {error}") from error

    return read


def pause_seconds(attempt: int, answer: httpx.Response | None = None) -> float:
    """How long to wait after a failed try: what the server says, else doubling; bounded."""
    told = answer.headers.get("Retry-After", "") if answer is not None else ""
    return min(float(told) if told.isdigit() else 0.2 * 2.0 ** (attempt - 1), LONGEST_PAUSE_SECONDS)


# -- operations


def submit(kind: str, spec: Json, key: str | None) -> Call[Job]:
    return Call(method="POST", path=f"/jobs/{kind}", read=parsed(Job), request={"json": spec, "headers": _key(key)})


def plan(kind: str, spec: Json) -> Call[dict[str, JsonValue]]:
    return Call(
        method="POST", path=f"/jobs/{kind}", read=as_dict, request={"json": spec, "params": {"dry_run": "true"}}
    )


def job(job_id: str) -> Call[Job]:
    return Call(method="GET", path=f"/jobs/{job_id}", read=parsed(Job))


def jobs(limit: int, cursor: str | None, filters: Mapping[str, str | None]) -> Call[JobPage]:
    given = {**filters, "cursor": cursor, "limit": str(limit)}
    params = {name: value for name, value in given.items() if value is not None}
    return Call(method="GET", path="/jobs", read=parsed(JobPage), request={"params": params})


def move(job_id: str, how: Literal["cancel", "pause", "resume"]) -> Call[Job]:
    return Call(method="POST", path=f"/jobs/{job_id}/{how}", read=parsed(Job))


def again(job_id: str, how: Literal["retry", "rerun"], key: str | None) -> Call[Job]:
    return Call(method="POST", path=f"/jobs/{job_id}/{how}", read=parsed(Job), request={"headers": _key(key)})


def promote(job_id: str, changes: Json | None, key: str | None) -> Call[Job]:
    body = {**(changes or {}), "as": "train"}
    return Call(
        method="POST",
        path=f"/jobs/{job_id}/promote",
        read=parsed(Job),
        request={"json": body, "headers": _key(key)},
    )


def metrics(job_id: str, names: Sequence[str], max_points: int | None) -> Call[Metrics]:
    params = [("name", name) for name in names]
    if max_points is not None:
        params.append(("max_points", str(max_points)))
    return Call(method="GET", path=f"/jobs/{job_id}/metrics", read=parsed(Metrics), request={"params": params})


def evidence(job_id: str) -> Call[dict[str, JsonValue]]:
    return Call(method="GET", path=f"/jobs/{job_id}/evidence", read=as_dict)


def artifacts(job_id: str) -> Call[list[dict[str, JsonValue]]]:
    return Call(method="GET", path=f"/jobs/{job_id}/artifacts", read=as_items)


def logs(job_id: str) -> Call[str]:
    return Call(method="GET", path=f"/jobs/{job_id}/logs", read=lambda answer: answer.text)


def compare(job_ids: Sequence[str], metric: str | None, baselines: Sequence[str]) -> Call[Comparison]:
    params = [("job", job_id) for job_id in job_ids] + [("baseline", name) for name in baselines]
    if metric is not None:
        params.append(("metric", metric))
    return Call(method="GET", path="/compare", read=parsed(Comparison), request={"params": params})


def trials(job_id: str) -> Call[Trials]:
    return Call(method="GET", path=f"/jobs/{job_id}/trials", read=parsed(Trials))


def best(job_id: str) -> Call[BestTrial]:
    return Call(method="GET", path=f"/jobs/{job_id}/best", read=parsed(BestTrial))


def importance(job_id: str) -> Call[Importance]:
    return Call(method="GET", path=f"/jobs/{job_id}/importance", read=parsed(Importance))


def dataset_request(
    spec: Json, given: Mapping[str, Path | None], sent: Sent | None, stack: ExitStack
) -> dict[str, object]:
    """What of a POST /datasets is the same for a plan and a registration; the files stay open as long as `stack`."""
    paths = {role: path for role, path in given.items() if path is not None}
    if not paths:
        return {"json": spec, "timeout": UPLOAD_TIMEOUT}
    sides = {role: {**as_object(spec.get(role)), "file": role} for role in paths if role != "file"}
    counter = Counter(sum(path.stat().st_size for path in paths.values()), sent)
    files: dict[str, object] = {"spec": (None, json.dumps({**spec, **sides}), "application/json")}
    for role, path in paths.items():
        files[role] = (path.name, Watched(stack.enter_context(path.open("rb")), counter))
    return {"files": files, "timeout": UPLOAD_TIMEOUT}


def add_dataset(request: Mapping[str, object], key: str | None) -> Call[Job]:
    # one try of an upload: a stream that was read halfway cannot be sent again
    tries = 1 if "files" in request else TRIES
    return Call(
        method="POST", path="/datasets", read=parsed(Job), request={**request, "headers": _key(key)}, tries=tries
    )


def plan_dataset(request: Mapping[str, object]) -> Call[dict[str, JsonValue]]:
    tries = 1 if "files" in request else TRIES
    planned = {**request, "params": {"dry_run": "true"}}
    return Call(method="POST", path="/datasets", read=as_dict, request=planned, tries=tries)


def delete_dataset(ref: str) -> Call[None]:
    # one try: a second one after a lost answer would be told that there is no such dataset
    return Call(method="DELETE", path=f"/datasets/{ref}", read=lambda _: None, tries=1)


def datasets(cursor: str | None) -> Call[DatasetPage]:
    params = {} if cursor is None else {"cursor": cursor}
    return Call(method="GET", path="/datasets", read=parsed(DatasetPage), request={"params": params})


def dataset(ref: str) -> Call[dict[str, JsonValue]]:
    return Call(method="GET", path=f"/datasets/{ref}", read=as_dict)


def workers() -> Call[list[dict[str, JsonValue]]]:
    return Call(method="GET", path="/workers", read=as_items)


def _key(key: str | None) -> dict[str, str]:
    """Without a key of the caller's own one is made, so that a repeated try is one job."""
    return {"Idempotency-Key": key or str(uuid.uuid4())}


class Frames:
    """The frames of an event stream: `event:`, `id:` and `data:` lines, ended by an empty line; comments are pings."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}

    def feed(self, line: str) -> Event | None:
        """The event that this line completes."""
        if line.startswith(":"):
            return None
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            joined = name == "data" and "data" in self._fields
            self._fields[name] = f"{self._fields[name]}\n{value}" if joined else value
            return None
        fields, self._fields = self._fields, {}
        if "data" not in fields:
            return None
        identity = fields.get("id", "")
        return Event(
            kind=fields.get("event", "message"),
            seq=int(identity) if identity.isdigit() else None,
            body=json.loads(fields["data"]).get("body") or {},
        )
