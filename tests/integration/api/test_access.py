"""Keys, sessions, quotas and the audit log through the API, on a real database."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.exc import IntegrityError

from api.http.auth import COOKIE
from jobs.access import audit, keys
from jobs.db.session import transaction
from jobs.db.tables import ApiKey, AuditRow, Dataset, LoginSession
from jobs.record import submission
from jobs.settings import Settings
from jobs.states import JobKind
from tests.integration.api.application import SPEC, Sessions, problem, serving, submit

pytestmark = pytest.mark.anyio
ADMIN = "an-admin-key-of-the-operator"
SAME = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API with an admin key; the client sends no key by default."""
    async with serving(settings.model_copy(update={"admin_key": SecretStr(ADMIN)})) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def make(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/keys", json={"name": "robot"} | fields, headers=bearer(ADMIN))
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_key_is_shown_once_used_and_revoked(client: httpx.AsyncClient, sessions: Sessions) -> None:
    made = await make(client, scopes=["jobs:read"])
    key = made.pop("key")
    assert (await client.get("/jobs", headers=bearer(key))).status_code == 200
    listed = await client.get("/keys", headers=bearer(ADMIN))
    assert key not in listed.text
    (shown,) = listed.json()["items"]
    assert shown["last_used_at"] is not None
    assert shown | {"last_used_at": None} == made
    with transaction(sessions) as session:
        row = session.scalars(sa.select(ApiKey)).one()
        assert row.sha256 == keys.digest(key)
        assert key not in str(row.__dict__)
    assert (await client.delete(f"/keys/{made['id']}", headers=bearer(ADMIN))).status_code == 204
    problem(await client.get("/jobs", headers=bearer(key)), 401, "unauthorized")
    assert (await client.delete(f"/keys/{made['id']}", headers=bearer(ADMIN))).status_code == 204
    missing = "/keys/019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21"
    problem(await client.delete(missing, headers=bearer(ADMIN)), 404, "key_not_found")


async def test_each_scope_permits_only_its_own_routes(client: httpx.AsyncClient, dataset: Dataset) -> None:
    reader = bearer((await make(client, scopes=["jobs:read"]))["key"])
    writer = bearer((await make(client, scopes=["jobs:write"]))["key"])
    both = bearer((await make(client, scopes=["admin"]))["key"])
    for method, path in (("POST", "/jobs/train"), ("POST", "/datasets"), ("DELETE", "/datasets/small")):
        problem(await client.request(method, path, json=SPEC, headers=reader), 403, "forbidden")
    for path in ("/keys", "/audit"):
        problem(await client.get(path, headers=reader), 403, "forbidden")
        assert (await client.get(path, headers=both)).status_code == 200
    problem(await client.get("/jobs", headers=writer), 403, "forbidden")
    assert (await client.post("/jobs/train", json=SPEC, headers=writer)).status_code == 202
    problem(await client.post("/keys", json={"name": "more"}, headers=writer), 403, "forbidden")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "a\0"}, "/name"),
        ({"name": "x", "scopes": []}, "/scopes"),
        ({"name": "x", "scopes": ["root"]}, "/scopes/0"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"name": "x", "quota": {"jobs": -1}}, "/quota/jobs"),
        ({"name": "x", "quota": {"gpus": 1}}, "/quota/gpus"),
        ({"name": "x", "secret": "y"}, "/secret"),
    ],
)
async def test_invalid_key_requests_are_refused(client: httpx.AsyncClient, body: dict[str, Any], pointer: str) -> None:
    response = await client.post("/keys", json=body, headers=bearer(ADMIN))
    assert pointer in [error["pointer"] for error in response.json()["errors"]], response.text
    assert response.status_code == 422


async def test_expired_key_is_refused_and_does_not_open_the_server(settings: Settings, sessions: Sessions) -> None:
    with transaction(sessions) as session:
        later = datetime.now(UTC) + timedelta(hours=1)
        _, key = keys.create(session, name="old", scopes=["jobs:read"], expires_at=later)
    async with serving(settings) as client:
        assert (await client.get("/jobs", headers=bearer(key))).status_code == 200
        with transaction(sessions) as session:
            session.execute(sa.update(ApiKey).values(expires_at=sa.func.now() - timedelta(seconds=1)))
        problem(await client.get("/jobs", headers=bearer(key)), 401, "unauthorized")
        problem(await client.get("/jobs"), 401, "unauthorized")


async def test_first_key_makes_authentication_mandatory(settings: Settings) -> None:
    async with serving(settings) as client:
        assert (await client.get("/jobs")).status_code == 200
        made = await client.post("/keys", json={"name": "first", "scopes": ["admin"]})
        assert made.status_code == 201
        problem(await client.get("/jobs"), 401, "unauthorized")
        assert (await client.get("/jobs", headers=bearer(made.json()["key"]))).status_code == 200


async def test_session_has_the_scopes_of_its_key(
    client: httpx.AsyncClient, sessions: Sessions, dataset: Dataset
) -> None:
    made = await make(client, scopes=["jobs:read", "jobs:write"])
    response = await client.post("/session", json={"key": made["key"]}, headers=SAME)
    assert response.status_code == 204
    cookie = response.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"} <= set(cookie.split("; "))
    assert made["key"] not in cookie
    value = client.cookies[COOKIE]
    with transaction(sessions) as session:
        assert value not in str(session.scalars(sa.select(LoginSession)).one().__dict__)
    assert (await client.get("/jobs")).status_code == 200
    assert (await client.post("/jobs/train", json=SPEC, headers=SAME)).status_code == 202
    assert (await client.post("/jobs/train", json=SPEC, headers={"Origin": "http://127.0.0.1"})).status_code == 202
    problem(await client.get("/keys"), 403, "forbidden")
    await client.delete(f"/keys/{made['id']}", headers=bearer(ADMIN))
    problem(await client.get("/jobs"), 401, "unauthorized")


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
async def test_cookie_without_same_origin_headers_is_refused_for_writes(
    client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions, headers: dict[str, str]
) -> None:
    await client.post("/session", json={"key": ADMIN}, headers=SAME)
    for method, path in (("POST", "/jobs/train"), ("DELETE", "/datasets/small"), ("DELETE", "/session")):
        problem(await client.request(method, path, json=SPEC, headers=headers), 403, "foreign_origin")
    assert (await client.get("/jobs", headers={})).json()["items"][0]["kind"] == "dataset"


async def test_session_ends(client: httpx.AsyncClient, sessions: Sessions) -> None:
    problem(await client.post("/session", json={"key": "atft_nonsense"}, headers=SAME), 401, "unauthorized")
    await client.post("/session", json={"key": ADMIN}, headers=SAME)
    value = client.cookies[COOKIE]
    assert (await client.get("/keys")).status_code == 200
    assert (await client.delete("/session", headers=SAME)).status_code == 204
    assert COOKIE not in client.cookies
    problem(await client.get("/keys", headers={"Cookie": f"{COOKIE}={value}"}), 401, "unauthorized")
    await client.post("/session", json={"key": ADMIN}, headers=SAME)
    with transaction(sessions) as session:
        session.execute(sa.update(LoginSession).values(expires_at=sa.func.now() - timedelta(seconds=1)))
    problem(await client.get("/keys"), 401, "unauthorized")


async def test_quota_of_jobs_holds_under_concurrency(client: httpx.AsyncClient, dataset: Dataset) -> None:
    mine = bearer((await make(client, scopes=["jobs:read", "jobs:write"], quota={"jobs": 3}))["key"])
    sent = await asyncio.gather(*(client.post("/jobs/train", json=SPEC, headers=mine) for _ in range(12)))
    assert sorted(response.status_code for response in sent) == [202] * 3 + [429] * 9
    refused = next(response for response in sent if response.status_code == 429)
    problem(refused, 429, "quota_exceeded")
    assert int(refused.headers["retry-after"]) > 0
    first = next(response for response in sent if response.status_code == 202).json()["id"]
    assert (await client.post(f"/jobs/{first}/cancel", headers=mine)).status_code == 202
    again = mine | {"Idempotency-Key": "k"}
    assert (await client.post("/jobs/train", json=SPEC, headers=again)).status_code == 202
    assert (await client.post("/jobs/train", json=SPEC, headers=again)).status_code == 202  # a replay is no new job
    problem(await client.post("/jobs/train", json=SPEC, headers=mine), 429, "quota_exceeded")
    problem(await client.post(f"/jobs/{first}/retry", headers=mine), 429, "quota_exceeded")
    assert (await client.post("/jobs/train", json=SPEC, headers=bearer(ADMIN))).status_code == 202


async def test_quota_of_requests_returns_retry_after(settings: Settings) -> None:
    few = settings.model_copy(update={"quota_requests": 3})
    async with serving(few) as client:
        responses = [await client.get("/jobs") for _ in range(4)]
    assert [response.status_code for response in responses] == [200, 200, 200, 429]
    assert [response.headers["ratelimit"].partition(";t=")[0] for response in responses] == [
        '"requests";r=2', '"requests";r=1', '"requests";r=0', '"requests";r=0'
    ]  # fmt: skip
    assert responses[0].headers["ratelimit-policy"] == '"requests";q=3;w=60'
    assert 1 <= int(responses[3].headers["retry-after"]) <= 61
    problem(responses[3], 429, "too_many_requests")


async def test_quota_of_streams(client: httpx.AsyncClient, dataset: Dataset) -> None:
    mine = bearer((await make(client, scopes=["jobs:read", "jobs:write"], quota={"streams": 0}))["key"])
    job = (await client.post("/jobs/train", json=SPEC, headers=mine)).json()["id"]
    for path in (f"/jobs/{job}/events", f"/events?job={job}", f"/jobs/{job}/logs?follow=true"):
        problem(await client.get(path, headers=mine), 429, "too_many_streams")


async def test_quota_of_uploads(client: httpx.AsyncClient, sessions: Sessions, settings: Settings) -> None:
    made = await make(client, scopes=["datasets:write"], quota={"upload_bytes": 1500})
    mine = bearer(made["key"])
    form = {"file": ("p.csv", b"date,code,close\n" * 50), "spec": (None, b'{"name": "mine"}')}
    assert (await client.post("/datasets", files=form, headers=mine)).status_code == 202
    with transaction(sessions) as session:  # as a job of an earlier upload has it
        submission.submit(
            session,
            submission.NewJob(
                kind=JobKind.DATASET,
                spec={},
                spec_digest="d",
                queue="cpu",
                created_by=f"key:{made['id']}",
                params={"sources": {"panel": {"size_bytes": 1400}}},
            ),
        )
    problem(await client.post("/datasets", files=form, headers=mine), 429, "quota_exceeded")


async def test_full_disk_refuses_submits(settings: Settings, dataset: Dataset) -> None:
    async with serving(settings.model_copy(update={"min_free_bytes": 2**60})) as client:
        problem(await client.post("/jobs/train", json=SPEC), 507, "disk_full")
        problem(await client.post("/datasets", json={"name": "p", "planted": {}}), 507, "disk_full")
        problem(await client.post(f"/jobs/{dataset.job_id}/rerun"), 507, "disk_full")
        assert (await client.post("/jobs/train?dry_run=true", json=SPEC)).status_code == 200
        assert (await client.get("/readyz")).status_code == 503


async def test_audit_log_records_principal_action_and_target(
    client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions
) -> None:
    made = await make(client, scopes=["jobs:read", "jobs:write"])
    mine = bearer(made["key"]) | {"X-Request-ID": "ask-1"}
    job = (await client.post("/jobs/train", json=SPEC, headers=mine)).json()["id"]
    await client.post("/jobs/train?dry_run=true", json=SPEC, headers=mine)
    await client.post("/jobs/train", json={"dataset": "none"}, headers=mine)
    await client.get("/jobs", headers=mine)
    await client.post(f"/jobs/{job}/cancel", headers=mine)
    await client.post("/session", json={"key": ADMIN}, headers=SAME)
    page = (await client.get("/audit?limit=3", headers=bearer(ADMIN))).json()
    rest = (await client.get(f"/audit?cursor={page['next_cursor']}", headers=bearer(ADMIN))).json()
    assert rest["next_cursor"] is None
    key = f"key:{made['id']}"
    assert [(row["who"], row["action"], row["target"]) for row in page["items"] + rest["items"]] == [
        ("admin", "POST /session", "/session"),
        (key, "POST /jobs/{job_id}/cancel", f"/jobs/{job}/cancel"),
        (key, "POST /jobs/train", f"/jobs/{job}"),
        ("admin", "POST /keys", f"/keys/{made['id']}"),
    ]
    assert page["items"][2]["request_id"] == "ask-1"
    assert page["items"][2]["address"] == "127.0.0.1"
    only = (await client.get("/audit", params={"who": key}, headers=bearer(ADMIN))).json()["items"]
    assert {row["who"] for row in only} == {key}
    assert len(only) == 2
    assert made["key"] not in str(page) + str(rest)
    problem(await client.get("/audit?cursor=x", headers=bearer(ADMIN)), 422, "invalid_request")


def test_audit_log_is_append_only(sessions: Sessions) -> None:
    act = audit.AuditEntry(principal="operator", action="test", target="x")
    with transaction(sessions) as session:
        audit.record(session, act)
        assert audit.is_guarded(session)
    change = sa.update(AuditRow).values(who="nobody")
    for statement in (change, sa.delete(AuditRow), sa.text("TRUNCATE audit")):
        with pytest.raises(IntegrityError, match="only added to"), transaction(sessions) as session:
            session.execute(statement)
    with transaction(sessions) as session:
        assert [row.who for row in audit.page(session)[0]] == ["operator"]


async def test_failed_requests_are_not_audited(client: httpx.AsyncClient, sessions: Sessions) -> None:
    problem(await client.delete("/datasets/none", headers=bearer(ADMIN)), 404, "dataset_not_found")
    with transaction(sessions) as session:
        assert audit.page(session) == ([], None)


async def test_anonymous_submits_are_audited_too(settings: Settings, dataset: Dataset, sessions: Sessions) -> None:
    async with serving(settings) as client:
        job = await submit(client)
    with transaction(sessions) as session:
        assert [(row.who, row.target) for row in audit.page(session)[0]] == [("anonymous", f"/jobs/{job['id']}")]
