"""`atft datasets` against a small HTTP server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from client.cli.app import app
from client.sdk.sync import Client
from tests.unit.client.small_server import Handler, serving

ORIGIN = {"kind": "upload", "files": [{"name": "p[1].csv"}], "by": "key:a"}
DATASET: dict[str, Any] = {
    "name": "prices", "version": 2, "num_rows": 1234, "num_codes": 20, "num_days": 62, "num_features": 3,
    "days": ["2020-01-01", "2020-03-31"], "horizons": [1, 5], "size_bytes": 1_500_000, "fingerprint": "f" * 8,
    "created_at": "2026-01-02T03:04:05Z", "columns": ["a", "b"], "market_columns": ["m"],
    "profile": {"warnings": ["few days"]}, "leak_report": {"suspected": [{"feature": "x", "rank_ic": 0.4}]},
    "versions": [{"version": n, "created_at": "2026", "origin": ORIGIN, "num_jobs": n, "num_unfinished_jobs": 0}
                 for n in (1, 2)],
}  # fmt: skip
PLAN = {
    "inspection": {"kind": "csv", "columns": {"date": "date", "close": "Adj Close"}, "feature_names": ["a"],
                   "market_names": [], "num_rows": 9, "num_codes": 3, "num_days": 3, "size_bytes": 2e6,
                   "fingerprint": "f", "profile": {}, "named_like_targets": ["target_x"]},
    "warnings": ["short"], "registered": ["prices@1"],
}  # fmt: skip


@pytest.fixture
def requests() -> list[str]:
    return []


@pytest.fixture
def service(requests: list[str]) -> Iterator[Client]:
    def on_request(request: Handler) -> None:
        requests.append(f"{request.command} {request.path}")
        request.read()
        if request.command == "POST":
            request.respond(200, PLAN)
        elif request.path == "/datasets":
            request.respond(200, {"items": [DATASET], "next_cursor": None})
        else:
            request.respond(200, DATASET)

    with serving(on_request) as client:
        yield client


def atft(service: Client, *arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, ["--url", service.url, "datasets", *arguments], input=typed)


def test_the_list_and_one_dataset_are_shown(service: Client) -> None:
    listed = atft(service, "ls").stdout
    for text in ("prices@2", "1,234", "62, 2020-01-01 to 2020-03-31", "1, 5", "1.5 MB", "2026-01-02 03:04Z"):
        assert text in listed
    shown = atft(service, "show", "prices").stdout
    for text in ("2 across stocks, 1 market-wide", "warning: few days", "x (0.4 with a target)", "key:a"):
        assert text in shown
    assert json.loads(atft(service, "show", "prices", "--json").stdout) == DATASET


def test_a_dry_run_shows_the_plan_and_registers_nothing(service: Client, requests: list[str], tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("date,code,close\n")
    shown = atft(service, "add", "prices", str(file), "--dry-run").stdout
    assert requests == ["POST /datasets?dry_run=true"]
    for text in ("csv: date, close from Adj Close", "warning: short", "allow_leaks lists it: target_x", "prices@1"):
        assert text in shown


def test_nothing_is_deleted_without_confirmation(service: Client, requests: list[str]) -> None:
    refused = atft(service, "rm", "prices", typed="n\n")
    assert (refused.exit_code, "delete prices with 2 versions?" in refused.stderr) == (1, True)
    assert requests == ["GET /datasets/prices"]
