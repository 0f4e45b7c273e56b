"""Requests and parsers without I/O: delays, event streams, errors, uploads."""

import json
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from client.sdk import operations
from client.sdk.models import Event
from client.sdk.operations import Broken, Refused, SseParser, Unreachable


def response(status: int, **options: object) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "http://h/jobs/a"), **options)  # type: ignore[arg-type]


def test_retry_delays_follow_retry_after_else_double_and_are_bounded() -> None:
    assert [operations.retry_delay_seconds(attempt) for attempt in (1, 2, 3, 9)] == [0.2, 0.4, 0.8, 5.0]
    assert operations.retry_delay_seconds(1, response(503, headers={"Retry-After": "3"})) == 3.0
    assert operations.retry_delay_seconds(1, response(503, headers={"Retry-After": "900"})) == 5.0
    assert operations.retry_delay_seconds(1, response(503, headers={"Retry-After": "Mon"})) == 0.2


def test_events_are_parsed_line_by_line() -> None:
    parser = SseParser()
    lines = [": ping", "", "event: log", "id: 7", 'data: {"body":', 'data: {"n": 1}}', "", 'data: {"body": null}', ""]
    events = [event for line in lines if (event := parser.feed(line)) is not None]
    assert events == [Event(kind="log", seq=7, body={"n": 1}), Event(kind="message", seq=None, body={})]


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
