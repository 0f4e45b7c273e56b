"""Every response and every request body, whatever the route: limits, headers, no stack traces. Without a database."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from api.app import create_app
from jobs.settings import Settings

NOWHERE = Settings(
    database_url=SecretStr("postgresql://u:dbsecret@127.0.0.1:1/x"),
    redis_url=SecretStr("redis://127.0.0.1:1/0"),
    max_body_bytes=5000,
    max_upload_bytes=9000,
)
JOB = "019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21"
ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(NOWHERE)


def ask(app: FastAPI, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return [await client.request(method, path, **more) for method, path, more in requests]

    return asyncio.run(run())


def operations(app: FastAPI) -> Iterator[tuple[str, str]]:
    for path, item in app.openapi()["paths"].items():
        filled = path.replace("{name}", "x")
        for part in ("{job_id}", "{key_id}"):
            filled = filled.replace(part, JOB)
        for method in item:
            yield method.upper(), filled


def test_every_route_bounds_its_body(app: FastAPI) -> None:
    asked = [(method, path) for method, path in operations(app) if method != "GET"]
    assert len(asked) > 8
    json = {"Content-Type": "application/json"}
    requests = [(method, path, {"content": b" " * 5001, "headers": json}) for method, path in asked]
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    requests += [(method, path, {"content": b" " * 9001, "headers": form}) for method, path in asked]
    for (method, path, _), answer in zip(requests, ask(app, *requests), strict=True):
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large"), (method, path)


def test_every_answer_has_the_security_headers(app: FastAPI) -> None:
    pages = ["/", f"/ui/jobs/{JOB}", "/ui/compare", "/docs", "/openapi.json", "/static/page.css", "/livez", "/nowhere"]
    requests: list[tuple[str, str, dict[str, Any]]] = [("GET", path, {}) for path in pages]
    requests += [("GET", "/jobs", {"headers": {"Host": "rebound.example"}}), ("PUT", "/jobs", {}), ("GET", "/jobs", {})]
    requests += [("POST", "/jobs/train", {"content": b" " * 6000}), ("GET", "/static/icon.svg", {})]
    answers = ask(app, *requests)
    assert {answer.status_code for answer in answers} >= {200, 401, 404, 405, 413, 503}
    for (_, path, _), answer in zip(requests, answers, strict=True):
        assert {name: answer.headers.get(name) for name in ALWAYS} == ALWAYS, path
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'", path
        assert "script-src" not in policy, path  # so that default-src decides: no inline script, no eval
        assert (policy["frame-ancestors"], policy["base-uri"], policy["object-src"]) == ("'none'",) * 3, path
        assert policy["form-action"] == "'self'", path
        assert ("style-src" in policy) == (path == "/docs"), path
        assert "<script>" not in answer.text, path


@pytest.mark.parametrize(
    "body",
    [b"[" * 4900, b'{"a":' * 900, b'{"dataset": "' + b"\\ud800" * 10 + b'"}', b"\xff\xfe{", b'{"a": 1e999999}', b"NaN"],
    ids=["arrays", "objects", "surrogates", "not-utf8", "huge-number", "nan"],
)
def test_odd_json_is_the_clients_error(app: FastAPI, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    paths = ("/jobs/train", "/jobs/hpo", "/datasets", "/session", "/keys")
    requests = [("POST", path, {"content": body, "headers": headers}) for path in paths]
    for path, answer in zip(paths, ask(app, *requests), strict=True):
        assert answer.status_code in (400, 422, 503), (path, answer.text)
        assert "Traceback" not in answer.text
        assert "dbsecret" not in answer.text


def test_session_key_is_not_repeated_in_an_error(app: FastAPI) -> None:
    long = "atft_secret" * 100
    (answer,) = ask(app, ("POST", "/session", {"json": {"key": long}}))
    assert answer.status_code == 422
    assert "atft_secret" not in answer.text


def test_headers_that_are_no_addresses_are_refused(app: FastAPI) -> None:
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", f"/jobs/{JOB}/cancel", {"headers": {"Origin": "http://["}}),
        ("GET", "/jobs", {"headers": {"Host": "["}}),
    ]
    assert [answer.status_code for answer in ask(app, *requests)] == [403, 401]


def test_every_operation_asks_for_a_key() -> None:
    closed = create_app(NOWHERE.model_copy(update={"admin_key": SecretStr("x")}))
    public = {("GET", "/livez"), ("GET", "/readyz"), ("POST", "/session"), ("DELETE", "/session")}
    asked = [operation for operation in operations(closed) if operation not in public]
    assert len(asked) > 25
    answers = ask(closed, *((method, path, {"json": {}}) for method, path in asked))
    assert {operation: answer.status_code for operation, answer in zip(asked, answers, strict=True)} == dict.fromkeys(
        asked, 401
    )
