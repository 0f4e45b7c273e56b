"""Limits of request bodies, security headers and errors without stack traces, on every route, without a database."""

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


def send(app: FastAPI, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
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
    changing = [(method, path) for method, path in operations(app) if method != "GET"]
    assert len(changing) > 8
    json = {"Content-Type": "application/json"}
    requests = [(method, path, {"content": b" " * 5001, "headers": json}) for method, path in changing]
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    requests += [(method, path, {"content": b" " * 9001, "headers": form}) for method, path in changing]
    for (method, path, _), response in zip(requests, send(app, *requests), strict=True):
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large"), (method, path)


def test_every_response_has_the_security_headers(app: FastAPI) -> None:
    pages = ["/", f"/ui/jobs/{JOB}", "/ui/compare", "/docs", "/openapi.json", "/static/page.css", "/livez", "/nowhere"]
    requests: list[tuple[str, str, dict[str, Any]]] = [("GET", path, {}) for path in pages]
    requests += [("GET", "/jobs", {"headers": {"Host": "rebound.example"}}), ("PUT", "/jobs", {}), ("GET", "/jobs", {})]
    requests += [("POST", "/jobs/train", {"content": b" " * 6000}), ("GET", "/static/icon.svg", {})]
    responses = send(app, *requests)
    assert {response.status_code for response in responses} >= {200, 401, 404, 405, 413, 503}
    for (_, path, _), response in zip(requests, responses, strict=True):
        assert {name: response.headers.get(name) for name in ALWAYS} == ALWAYS, path
        policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'", path
        assert "script-src" not in policy, path  # so that default-src decides: no inline script, no eval
        assert (policy["frame-ancestors"], policy["base-uri"], policy["object-src"]) == ("'none'",) * 3, path
        assert policy["form-action"] == "'self'", path
        assert ("style-src" in policy) == (path == "/docs"), path
        assert "<script>" not in response.text, path


@pytest.mark.parametrize(
    "body",
    [b"[" * 4900, b'{"a":' * 900, b'{"dataset": "' + b"\\ud800" * 10 + b'"}', b"\xff\xfe{", b'{"a": 1e999999}', b"NaN"],
    ids=["arrays", "objects", "surrogates", "not-utf8", "huge-number", "nan"],
)
def test_malformed_json_is_a_client_error(app: FastAPI, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    paths = ("/jobs/train", "/jobs/hpo", "/datasets", "/session", "/keys")
    requests = [("POST", path, {"content": body, "headers": headers}) for path in paths]
    for path, response in zip(paths, send(app, *requests), strict=True):
        assert response.status_code in (400, 422, 503), (path, response.text)
        assert "Traceback" not in response.text
        assert "dbsecret" not in response.text


def test_session_key_is_not_repeated_in_an_error(app: FastAPI) -> None:
    long = "atft_secret" * 100
    (response,) = send(app, ("POST", "/session", {"json": {"key": long}}))
    assert response.status_code == 422
    assert "atft_secret" not in response.text


def test_invalid_host_and_origin_headers_are_refused(app: FastAPI) -> None:
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", f"/jobs/{JOB}/cancel", {"headers": {"Origin": "http://["}}),
        ("GET", "/jobs", {"headers": {"Host": "["}}),
    ]
    assert [response.status_code for response in send(app, *requests)] == [403, 401]


def test_every_operation_requires_a_key() -> None:
    closed = create_app(NOWHERE.model_copy(update={"admin_key": SecretStr("x")}))
    public = {("GET", "/livez"), ("GET", "/readyz"), ("POST", "/session"), ("DELETE", "/session")}
    protected = [operation for operation in operations(closed) if operation not in public]
    assert len(protected) > 25
    responses = send(closed, *((method, path, {"json": {}}) for method, path in protected))
    assert {
        operation: response.status_code for operation, response in zip(protected, responses, strict=True)
    } == dict.fromkeys(protected, 401)
