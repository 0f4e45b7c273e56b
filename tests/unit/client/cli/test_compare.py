"""`atft compare` against a small HTTP server with a valid response."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from typer.testing import CliRunner

from client.cli.app import app

JOBS = [
    {"id": "j1", "name": "[adamw]", "mean": 0.0312, "std": 0.11, "ic_t": 2.1, "num_days": 250, "state": "succeeded"},
    {"id": "j2", "name": None, "mean": None, "std": None, "ic_t": None, "num_days": 0, "state": "failed"},
    {"id": "baseline:ridge", "name": "ridge", "mean": 0.02, "std": 0.1, "ic_t": 1.0, "num_days": 250, "state": None},
]
PAIR = {
    "a": "j1", "b": "baseline:ridge", "mean_difference": 0.0112, "t": 1.2, "degrees_of_freedom": 15, "p_value": 0.25,
    "ci95": [-0.003, 0.011], "num_days": 250, "num_dropped": 0, "verdict": "insufficient evidence",
}  # fmt: skip
ANSWER: dict[str, Any] = {
    "metric": "test/rank_ic@5d",
    "jobs": JOBS,
    "differences": {"optimizer.name": ["adamw", "adabelief"]},
    "fair": False,
    "unfair_because": ["j2 is failed: only a succeeded job has numbers to compare"],
    "pairs": [PAIR, {"a": "j1", "b": "j2", "verdict": "insufficient evidence"}],
    "model_confidence_set": ["j1", "baseline:ridge"],
    "curves": {"j1": {"step": [1], "value": [None]}},
    "something_new": 1,
}


@contextmanager
def serving_response(status: int, body: object) -> Iterator[tuple[str, list[str]]]:
    """A server with one fixed response: its URL, and the paths that were requested."""
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requested
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_comparison_is_shown_in_words() -> None:
    arguments = ["compare", "j1", "j2", "--metric", "test/rank_ic@5d", "--baseline", "ridge"]
    with serving_response(200, ANSWER) as (url, requested):
        result = CliRunner().invoke(app, ["--url", url, *arguments])
    assert result.exit_code == 0, result.output
    query = parse_qsl(urlsplit(requested[0]).query)
    assert query == [("job", "j1"), ("job", "j2"), ("baseline", "ridge"), ("metric", "test/rank_ic@5d")]
    text = result.stdout
    assert "[adamw] - ridge" in text
    assert "insufficient evidence" in text
    assert "-0.0030 to 0.0110" in text
    assert "not a fair comparison" in text
    assert "j2 is failed: only a succeeded job" in text
    assert "optimizer.name" in text
    assert "not significantly worse than the best at 95 %: [adamw], ridge" in text
    [lost] = [line for line in text.splitlines() if line.startswith("j2 ") and "failed" in line and "only" not in line]
    assert "–" in lost
    assert "0.0" not in lost


def test_json_is_the_response_of_the_service() -> None:
    with serving_response(200, ANSWER) as (url, _):
        result = CliRunner().invoke(app, ["--url", url, "compare", "j1", "j2", "--json"])
    assert json.loads(result.stdout) | ANSWER == json.loads(result.stdout) | {"pairs": ANSWER["pairs"]}
    assert json.loads(result.stdout)["pairs"][0] == PAIR


def test_a_refused_comparison_exits_with_2() -> None:
    problem = {"title": "Unprocessable", "status": 422, "detail": "job: a comparison needs two sides", "errors": []}
    with serving_response(422, problem) as (url, _):
        result = CliRunner().invoke(app, ["--url", url, "compare", "j1"])
    assert result.exit_code == 2
    assert "two sides" in result.stderr
