"""The client against small HTTP servers that fail in the ways a service may."""

import json
from pathlib import Path

import pytest

from client.sdk import operations
from client.sdk.sync import Broken, Client, Refused, Unreachable
from tests.unit.client.small_server import Handler, serving

JOB = {"id": "a", "kind": "train", "state": "queued", "something_new": 1}


def test_a_submit_is_retried_with_the_same_idempotency_key() -> None:
    keys: list[str] = []

    def on_request(request: Handler) -> None:
        request.read()
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) < 3:
            request.respond(503, {"title": "Unavailable"}, Retry_After="1")
        else:
            request.respond(202, JOB)

    with serving(on_request) as client:
        assert client.submit("train", {"dataset": "d"}).id == "a"
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_retries_are_bounded() -> None:
    calls: list[str] = []

    def on_request(request: Handler) -> None:
        calls.append(request.path)
        request.respond(503, {"title": "Unavailable"})

    with serving(on_request) as client, pytest.raises(Unreachable, match="503"):
        client.job("a")
    assert len(calls) == operations.MAX_TRIES


def test_a_refused_connection_is_unreachable() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        client.job("a")


def test_a_refusal_shows_the_problem_with_its_pointers() -> None:
    error = {
        "pointer": "/model/gat_layers",
        "detail": "Input should be greater than or equal to 1",
        "code": "greater_than_equal",
    }
    problem = {"title": "Invalid request", "status": 422, "detail": "1 field is wrong", "errors": [error]}
    with (
        serving(lambda request: (request.read(), request.respond(422, problem))) as client,
        pytest.raises(Refused) as caught,
    ):  # type: ignore[arg-type, return-value]
        client.submit("train", {})
    assert caught.value.status == 422
    assert str(caught.value).splitlines()[1].strip() == "/model/gat_layers: Input should be greater than or equal to 1"


@pytest.mark.parametrize(
    ("status", "body"), [(500, {"detail": "oops", "request_id": "r1"}), (200, b"<html>"), (200, {"id": 3})]
)
def test_a_response_that_breaks_the_contract_is_an_error(status: int, body: object) -> None:
    with serving(lambda request: request.respond(status, body)) as client, pytest.raises(Broken):
        client.job("a")


def frame(kind: str, seq: int | None, **body: object) -> bytes:
    data = json.dumps({"job_id": "a", "seq": seq, "time": "2026-01-01T00:00:00Z", "body": body})
    return f"event: {kind}\n{f'id: {seq}' + chr(10) if seq is not None else ''}data: {data}\n\n".encode()


def test_a_broken_stream_resumes_after_the_last_id() -> None:
    requested: list[str] = []
    whole = [
        frame("log", 1, n=1),
        frame("progress", None, ratio=0.5),
        frame("log", 2, n=2),
        frame("log", 3, n=3),
        frame("end", 4),
    ]

    def on_request(request: Handler) -> None:
        last = request.headers["Last-Event-ID"]
        requested.append(last)
        rest = b": ping\n\n" + b"".join(whole if last == "0" else whole[3:])
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Content-Length", str(len(rest)))
        request.end_headers()
        request.wfile.write(rest[: rest.index(b"id: 3") + 20] if last == "0" else rest)  # cut inside the third event
        request.close_connection = True

    with serving(on_request) as client:
        events = list(client.events("a"))
    assert requested == ["0", "2"]
    assert [(event.kind, event.seq) for event in events] == [
        ("log", 1),
        ("progress", None),
        ("log", 2),
        ("log", 3),
        ("end", 4),
    ]


def test_a_stream_of_a_finished_job_that_was_read_to_its_end_is_empty() -> None:
    with serving(lambda request: request.respond(204, b"")) as client:
        assert list(client.events("a", after=9)) == []


def test_a_stream_of_an_unknown_job_is_refused() -> None:
    with serving(lambda request: request.respond(404, {"title": "Not found"})) as client, pytest.raises(Refused):
        list(client.events("a"))


def test_an_upload_carries_the_file_and_the_spec(tmp_path: Path) -> None:
    bodies: list[bytes] = []

    def on_request(request: Handler) -> None:
        bodies.append(request.read())
        request.respond(202, JOB | {"kind": "dataset"})

    file = tmp_path / "p.csv"
    file.write_text("date,code,close\n")
    with serving(on_request) as client:
        client.add_dataset({"name": "p"}, file=file)
    assert b'name="file"; filename="p.csv"' in bodies[0]
    assert b"date,code,close" in bodies[0]
    assert b'{"name": "p"}' in bodies[0]


def test_waiting_ends_at_a_terminal_state_or_after_its_time() -> None:
    states = iter(["queued", "running", "failed"])
    with serving(lambda request: request.respond(200, JOB | {"state": next(states)})) as client:
        assert client.wait("a").state == "failed"
    with (
        serving(lambda request: request.respond(200, JOB)) as client,
        pytest.raises(TimeoutError, match="still queued"),
    ):
        client.wait("a", timeout_seconds=0)


def test_datasets_reads_all_pages() -> None:
    def on_request(request: Handler) -> None:
        second = "cursor=next" in request.path
        request.respond(200, {"items": [{"name": "b" if second else "a"}], "next_cursor": None if second else "next"})

    with serving(on_request) as client:
        assert [one["name"] for one in client.datasets()] == ["a", "b"]
