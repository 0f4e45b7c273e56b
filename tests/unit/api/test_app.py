"""The application as a whole, without a database: its imports, and settings with which it refuses to start."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import SecretStr

from api.app import ROUTERS, create_app
from api.http.auth import SAFE_METHODS, audit_entry, is_loopback
from api.web import pages
from api.web.metrics import PAGE_METRICS
from atft.spec.kinds import KINDS
from atft.spec.metric import SHOWN
from jobs.settings import Settings

HEAVY = ("torch", "torch_geometric", "optuna", "polars", "worker", "atft.data", "atft.model", "atft.train", "atft.loss")
NOWHERE = Settings(database_url=SecretStr("postgresql://u@127.0.0.1:1/x"), redis_url=SecretStr("redis://127.0.0.1:1/0"))


def test_api_imports_nothing_heavy() -> None:
    program = f"import sys, api.app; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback_addresses(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside


def calls(dependant: Dependant) -> set[object]:
    return {dependant.call}.union(*(calls(inner) for inner in dependant.dependencies))


def test_every_route_that_changes_something_takes_the_audit_entry() -> None:
    routes = [route for module in ROUTERS for route in module.routes if isinstance(route, APIRoute)]
    changing = {
        f"{method} {route.path}": audit_entry in calls(route.dependant)
        for route in routes
        for method in route.methods - SAFE_METHODS
    }
    # Logging in makes its entry itself, because it authenticates by the key in the body; logging out has none.
    assert {name for name, takes in changing.items() if not takes} == {"POST /session", "DELETE /session"}
    assert len(changing) > 15


def start(app: FastAPI) -> None:
    async def run() -> None:
        async with app.router.lifespan_context(app):
            pass

    asyncio.run(run())


def test_pain_45_without_keys_it_does_not_serve_beyond_loopback() -> None:
    app = create_app(NOWHERE.model_copy(update={"bind": "0.0.0.0"}))
    with pytest.raises(Exception, match=r"database cannot be reached|no API key is configured"):
        start(app)


def test_it_starts_while_database_and_broker_are_unavailable() -> None:
    start(create_app(NOWHERE))


def test_without_database_url_the_error_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="atft up"):
        create_app(Settings())


def send(method: str, path: str, **request: object) -> httpx.Response:
    async def run() -> httpx.Response:
        app = create_app(NOWHERE)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, **request)  # type: ignore[arg-type]

    return asyncio.run(run())


@pytest.mark.parametrize("path", ["/jobs", "/workers", "/datasets", "/events?job=019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21"])
def test_unavailable_database_is_503_with_retry_after(path: str) -> None:
    response = send("GET", path)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"].isdigit()
    assert response.json()["code"] == "database_unavailable"


def test_pages_health_and_documents_need_no_database() -> None:
    for path in (
        "/livez",
        "/",
        "/docs",
        "/openapi.json",
        "/static/page.css",
        "/static/swagger-ui-bundle.js",
        "/favicon.ico",
    ):
        response = send("GET", path)
        assert response.status_code == 200, path
        assert "default-src 'self'" in response.headers["content-security-policy"]
    assert send("GET", "/static/../pages.py").status_code == 404
    assert send("GET", "/readyz").status_code == 503


def test_kinds_and_metrics_are_in_the_pages_and_no_metric_is_in_a_script() -> None:
    for page in (pages.list_page(), pages.job_page("1"), pages.dataset_page("prices"), pages.compare_page()):
        text = bytes(asyncio.run(page).body).decode()
        table = re.search(r'<script type="application/json" id="page-metrics">(.*)</script>', text)
        assert table
        assert json.loads(table[1]) == PAGE_METRICS
    for page in (pages.list_page(), pages.job_page("1"), pages.submit_page()):
        text = bytes(asyncio.run(page).body).decode()
        table = re.search(r'<script type="application/json" id="page-kinds">(.*)</script>', text)
        assert table
        assert json.loads(table[1]).keys() == {kind.value for kind in KINDS}
    names = "|".join(metric.name for metric in SHOWN if metric.unit != "days")  # num_days is a dataset's field too
    name = re.compile(rf"[\"'`/|(](?:{names})[\"'`@|)$]|[\"'`](?:train|val|test|step|time|system)/[a-z]")
    scripts = [file.read_text() for file in (Path(pages.__file__).parent / "static").glob("*.js")]
    assert len(scripts) > 10
    assert [name.findall(text) for text in scripts] == [[]] * len(scripts)


def test_pages_escape_the_job_id() -> None:
    response = send("GET", '/ui/jobs/"><script>alert(1)<')
    assert "<script>alert" not in response.text


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}],
    ids=["origin", "fetch-site", "null"],
)
def test_cross_origin_writes_are_refused(headers: dict[str, str]) -> None:
    response = send("POST", "/jobs/019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21/cancel", headers=headers)
    assert (response.status_code, response.json()["code"]) == (403, "foreign_origin")


def test_foreign_host_name_is_not_this_machine() -> None:
    assert send("GET", "/jobs", headers={"Host": "rebound.example"}).status_code == 401
