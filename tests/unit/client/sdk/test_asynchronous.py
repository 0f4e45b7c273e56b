"""The asynchronous client, and the methods of its jobs."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from client.sdk.asynchronous import AsyncClient, AsyncJob
from client.sdk.models import Comparison, Metrics
from client.sdk.sync import Client, Refused, Unreachable
from tests.unit.client.small_server import Handler, serving

JOB = {"id": "a", "kind": "train", "state": "queued"}


def test_a_submit_is_retried_with_one_key_and_waited_for() -> None:
    keys: list[str] = []

    def on_request(request: Handler) -> None:
        if request.command == "GET":
            request.respond(200, {**JOB, "state": "succeeded"})
            return
        request.read()
        keys.append(request.headers["Idempotency-Key"])
        request.respond(*((503, {"title": "Unavailable"}) if len(keys) < 3 else (202, JOB)))

    async def main(url: str) -> AsyncJob:
        async with AsyncClient(url) as service:
            return await (await service.train({"dataset": "d"})).wait(5)

    with serving(on_request) as client:
        assert asyncio.run(main(client.url)).state == "succeeded"
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_the_asynchronous_client_raises_the_same_errors() -> None:
    async def main(url: str) -> None:
        async with AsyncClient(url) as service:
            await service.job("a")

    unknown = serving(lambda request: request.respond(404, {"title": "No such job"}))
    with unknown as client, pytest.raises(Refused, match="No such job"):
        asyncio.run(main(client.url))
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        asyncio.run(main("http://127.0.0.1:9"))


def test_a_broken_stream_resumes_after_the_last_id_in_both_clients() -> None:
    requested: list[str] = []

    def on_request(request: Handler) -> None:
        if not request.path.endswith("/events"):
            request.respond(200, JOB)
            return
        requested.append(request.headers["Last-Event-ID"])
        last = int(requested[-1])
        kinds = {1: "state", 2: "log", 3: "end"}
        data = json.dumps({"seq": last + 1, "body": {"n": last + 1}})
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(f"event: {kinds[last + 1]}\nid: {last + 1}\ndata: {data}\n\n".encode())
        request.close_connection = True

    async def main(url: str) -> list[int | None]:
        async with AsyncClient(url) as service:
            return [event.seq async for event in (await service.job("a")).stream()]

    with serving(on_request) as client:
        assert asyncio.run(main(client.url)) == [1, 2, 3]
        assert [event.seq for event in client.job("a").stream()] == [1, 2, 3]
    assert requested == ["0", "1", "2"] * 2


def test_both_clients_send_the_same_requests_and_return_the_same(tmp_path: Path) -> None:
    panel, weights = tmp_path / "p.csv", tmp_path / "weights"
    panel.write_text("date,code,close\n")
    sent: list[tuple[int, int]] = []
    upload = {"file": panel, "on_progress": lambda *step: sent.append(step), "idempotency_key": "k"}
    calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = [
        ("train", ({"dataset": "d"},), {"idempotency_key": "k"}),
        ("jobs", (), {"limit": 3, "state": "running"}),
        ("retry", ("a",), {"idempotency_key": "k"}),
        ("add_dataset", ({"name": "p"},), upload),
        ("download", ("/jobs/a/artifacts/weights", weights), {}),
        ("delete_dataset", ("p",), {}),
        ("ready", (), {}),
    ]
    requests: list[tuple[object, ...]] = []

    def on_request(request: Handler) -> None:
        body = re.sub(rb"\b[0-9a-f]{32}\b", b"boundary", request.read())
        headers = [request.headers[name] for name in ("Idempotency-Key", "Accept", "Authorization")]
        requests.append((request.command, request.path, headers, body))
        if request.path.startswith("/jobs/a/logs"):
            request.respond(200, b"one\ntwo\n")
        else:
            request.respond(200, {**JOB, "items": [JOB]})

    async def main(url: str) -> list[object]:
        async with AsyncClient(url, "key") as service:
            found = [await getattr(service, name)(*args, **options) for name, args, options in calls]
            return [*found, [chunk async for chunk in service.follow_logs("a")]]

    with serving(on_request) as client:
        first = asyncio.run(main(client.url))
        count, content = len(requests), weights.read_bytes()
        weights.unlink()
        with Client(client.url, "key") as service:
            found = [getattr(service, name)(*args, **options) for name, args, options in calls]
            second = [*found, list(service.follow_logs("a"))]
    assert [str(one) for one in first] == [str(one) for one in second]
    assert requests[:count] == requests[count:]
    assert (count, weights.read_bytes(), sent) == (len(calls) + 1, content, [(16, 16), (16, 16)] * 2)


def test_undefined_values_are_null_in_a_frame() -> None:
    body = {"job_id": "a", "state": "running", "series": {"val/rank_ic": {"step": [1, 2], "value": [0.1, None]}}}
    frame = Metrics.model_validate(body).to_polars()
    assert frame.rows() == [("val/rank_ic", 1, 0.1), ("val/rank_ic", 2, None)]
    assert Metrics.model_validate({**body, "series": {}}).to_polars().columns == ["name", "step", "value"]


def test_notebook_html_escapes_names() -> None:
    with serving(
        lambda request: request.respond(200, {**JOB, "name": "<script>", "metrics": {"val/rank_ic": None}})
    ) as c:
        text = c.job("a")._repr_html_()
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    assert "undefined" in text
    pair = {"a": "1", "b": "2", "mean_difference": 0.004, "ci95": [-0.003, 0.011], "verdict": "insufficient evidence"}
    sides = [{"id": "1", "name": "adamw"}, {"id": "2", "name": "<b>"}]
    found = Comparison.model_validate({"metric": "test/rank_ic", "jobs": sides, "fair": True, "pairs": [pair]})
    shown = found._repr_html_()
    assert "insufficient evidence" in shown
    assert "adamw - &lt;b&gt;" in shown
