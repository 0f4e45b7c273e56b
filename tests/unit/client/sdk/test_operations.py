"""Requests and parsers without I/O: delays, event streams, errors, uploads."""

import contextlib
import json
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import stamina
from httpx_sse import EventSource, ServerSentEvent

from client.sdk import operations
from client.sdk.models import Event
from client.sdk.operations import Broken, Refused, Unreachable


def response(status: int, **options: object) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "http://h/jobs/a"), **options)  # type: ignore[arg-type]


def test_retry_delays_follow_retry_after_else_double_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def delays(attempts: int, headers: dict[str, str]) -> list[float]:
        slept: list[float] = []
        monkeypatch.setattr(time, "sleep", slept.append)
        with contextlib.suppress(Unreachable):
            for attempt in operations.retrying(attempts=attempts):
                with attempt:
                    operations.check_response(response(503, headers=headers))
        return slept

    stamina.set_testing(False)  # until the fixture's end
    assert delays(8, {}) == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert delays(3, {"Retry-After": "3"}) == [3.0, 3.0]
    assert delays(2, {"Retry-After": "900"}) == [5.0]
    assert delays(2, {"Retry-After": "Mon"}) == [0.2]
    assert delays(1, {"Retry-After": "3"}) == []


def test_the_frames_of_a_stream_are_parsed() -> None:
    lines = [
        "retry: 2000", "", ": ping", "", "event: log", "id: 7", 'data: {"seq": 7, "body":', 'data: {"n": 1}}', "",
        ": ping", "", 'data: {"seq": null, "body": null}', "", "event: log", 'data: {"cut off',
    ]  # fmt: skip
    content = "\n".join(lines).encode()
    stream = response(200, content=content, headers={"Content-Type": "text/event-stream"})
    events = [operations.parse_event(frame) for frame in EventSource(stream).iter_sse()]
    assert [event for event in events if event is not None] == [
        Event(kind="log", seq=7, body={"n": 1}),
        Event(kind="message", seq=None, body={}),
    ]
    with pytest.raises(Broken, match="not JSON"):
        operations.parse_event(ServerSentEvent(data="<html>"))


def test_an_error_of_the_transport_without_a_text_is_named() -> None:
    with pytest.raises(Unreachable, match="http://h: ReadError"), operations.transport_errors("http://h"):
        raise httpx.ReadError("")


@pytest.mark.parametrize(("status", "error"), [(404, Refused), (422, Refused), (500, Broken), (503, Unreachable)])
def test_each_status_has_its_error(status: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        operations.check_response(response(status, json={"title": "no"}))


def test_submits_carry_the_given_key_or_a_new_one() -> None:
    def key(call: operations.Call[object]) -> object:
        return operations.as_mapping(call.options["headers"])["Idempotency-Key"]

    assert key(operations.submit("train", {}, "mine")) == "mine"  # type: ignore[arg-type]
    assert key(operations.submit("train", {}, None)) != key(operations.submit("train", {}, None))  # type: ignore[arg-type]


def test_an_upload_names_its_side_files_in_the_spec_and_is_not_retried(tmp_path: Path) -> None:
    panel, members = tmp_path / "p.csv", tmp_path / "m.csv"
    panel.write_text("abc")
    members.write_text("de")
    files = {"file": panel, "universe": members, "market": None}
    with ExitStack() as stack:
        request = operations.dataset_request({"name": "p", "universe": {"by": "year"}}, files, None, stack)
        parts = operations.as_mapping(request["files"])
        assert set(parts) == {"spec", "file", "universe"}
        spec = parts["spec"]
        assert isinstance(spec, tuple)
        assert json.loads(spec[1]) == {"name": "p", "universe": {"by": "year", "file": "universe"}}
        assert operations.add_dataset(request, None).max_tries == 1
    assert operations.add_dataset({"json": {}}, None).max_tries == operations.MAX_TRIES
