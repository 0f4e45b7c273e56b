"""Security: attempts with revoked keys, foreign cookies, decompression bombs, forged cursors, log injection."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from starlette.requests import Request

from api.http import errors, service
from api.http.auth import COOKIE
from atft.checksums import sha256_of
from atft.events import Log
from jobs.access import keys
from jobs.db.session import transaction
from jobs.db.tables import Job, LoginSession
from jobs.errors import QuotaExceeded
from jobs.record import catalog, history, lifecycle, submission
from jobs.record.queries import write_cursor
from jobs.record.quotas import check_upload_quota
from jobs.record.reruns import RerunKind, submit_rerun
from jobs.settings import Settings
from jobs.states import JobKind, Wanted
from tests.integration.api.application import Sessions, problem, register, serving

pytestmark = pytest.mark.anyio
ADMIN = "an-admin-key-of-the-operator"
SAME = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings.model_copy(update={"admin_key": SecretStr(ADMIN)})) as client:
        yield client


def keys_and_build(sessions: Sessions, *scopes: str) -> tuple[dict[str, str], UUID]:
    """A key of each scope, and the job that built a registered dataset."""
    register(sessions)
    with transaction(sessions) as session:
        made = {scope: keys.create(session, name="k", scopes=[scope])[1] for scope in scopes}
        return made, session.scalars(sa.select(Job.id)).one()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_revoked_key_and_a_closed_session_end_their_streams(
    client: httpx.AsyncClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ACCESS_CHECK_SECONDS", 0.2)
    with transaction(sessions) as session:
        row, key = keys.create(session, name="reader", scopes=["jobs:read"])
        key_id = row.id
        job = submission.submit(
            session, submission.NewJob(kind=JobKind.TRAIN, spec={}, spec_digest="d", queue="cpu")
        ).job.id
        assert lifecycle.claim(session, job, worker="w", host="h", device="cpu", lease_seconds=60)
    assert (await client.post("/session", json={"key": key}, headers=SAME)).status_code == 204
    cookie = client.cookies[COOKIE]
    client.cookies.clear()
    paths = (f"/jobs/{job}/events", f"/jobs/{job}/logs?follow=true", f"/jobs/{job}/logs?follow=true&source=process")
    by_cookie = asyncio.create_task(client.get(paths[0], headers={"Cookie": f"{COOKIE}={cookie}"}))
    by_key = [asyncio.create_task(client.get(path, headers=bearer(key))) for path in paths]
    async with asyncio.timeout(15):
        while "atft_streams 4.0" not in (await client.get("/metrics", headers=bearer(ADMIN))).text:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert not any(stream.done() for stream in (by_cookie, *by_key))
    assert (await client.delete("/session", headers=SAME | {"Cookie": f"{COOKIE}={cookie}"})).status_code == 204
    async with asyncio.timeout(15):
        assert (await by_cookie).status_code == 200
        assert not any(stream.done() for stream in by_key)
        assert (await client.delete(f"/keys/{key_id}", headers=bearer(ADMIN))).status_code == 204
        responses = await asyncio.gather(*by_key)
    assert all("event: end" not in response.text for response in responses)
    for path in paths:
        problem(await client.get(path, headers=bearer(key)), 401, "unauthorized")


async def test_login_never_reuses_the_cookie_of_the_request(client: httpx.AsyncClient, sessions: Sessions) -> None:
    planted = {"Cookie": f"{COOKIE}=chosen-by-somebody-else"}
    await client.post("/session", json={"key": ADMIN}, headers=SAME | planted)
    first = client.cookies[COOKIE]
    assert first != "chosen-by-somebody-else"
    problem(await client.get("/jobs", headers=planted), 401, "unauthorized")
    await client.post("/session", json={"key": ADMIN}, headers=SAME)
    assert client.cookies[COOKIE] != first
    with transaction(sessions) as session:
        assert len(session.scalars(sa.select(LoginSession)).all()) == 1  # the earlier session was closed


async def test_quota_of_uploads_holds_for_chunked_and_concurrent_bodies(
    client: httpx.AsyncClient, sessions: Sessions, settings: Settings
) -> None:
    with transaction(sessions) as session:
        _, key = keys.create(session, name="r", scopes=["datasets:write"], quota={"upload_bytes": 1000})
    head = b'--b\r\nContent-Disposition: form-data; name="spec"\r\n\r\n{"name": "d"}\r\n'
    head += b'--b\r\nContent-Disposition: form-data; name="file"; filename="p.csv"\r\n\r\n'

    async def body(size: int) -> AsyncIterator[bytes]:
        yield head + b"x" * size
        yield b"\r\n--b--\r\n"

    async def send(size: int) -> httpx.Response:
        headers = bearer(key) | {"Content-Type": "multipart/form-data; boundary=b"}
        return await client.post("/datasets", content=body(size), headers=headers)

    problem(await send(2000), 429, "quota_exceeded")
    assert list(settings.uploads_root.iterdir()) == []
    at_once = await asyncio.gather(*(send(300) for _ in range(8)))
    assert sorted(response.status_code for response in at_once) == [202] * 3 + [429] * 5
    assert len(list(settings.uploads_root.iterdir())) == 3


async def test_a_decompression_bomb_is_refused_and_leaves_no_file(
    client: httpx.AsyncClient, settings: Settings, tmp_path: Path
) -> None:
    day = pa.scalar(18_000, pa.int32()).cast(pa.date32())
    rows = {
        "date": pa.repeat(day, 16_000_000),
        "code": pa.repeat("A", 16_000_000),
        "close": pa.repeat(1.0, 16_000_000),
    }
    pq.write_table(pa.table(rows), tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 1_000_000
    form = {"spec": (None, json.dumps({"name": "p"})), "file": ("p.parquet", (tmp_path / "bomb.parquet").read_bytes())}
    response = await client.post("/datasets?dry_run=true", files=form, headers=bearer(ADMIN))
    assert "unpacks to more than 100 times" in problem(response, 422, "cannot_build")["detail"]
    assert list(settings.uploads_root.iterdir()) == []


async def test_forged_cursors_are_refused(client: httpx.AsyncClient, sessions: Sessions) -> None:
    ends = [datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), datetime.max.replace(tzinfo=UTC)]
    for moment in (*ends, datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))):
        for path in ("/jobs", "/datasets"):
            response = await client.get(path, params={"cursor": write_cursor(moment, uuid4())}, headers=bearer(ADMIN))
            assert response.status_code in (200, 422), response.text
    naive = write_cursor(datetime(2020, 1, 1), uuid4())  # noqa: DTZ001 - as somebody might write one
    assert (await client.get("/jobs", params={"cursor": naive}, headers=bearer(ADMIN))).status_code == 200


async def test_a_key_without_the_scope_is_refused_on_every_route_of_a_job(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    """Every route of a job, with keys that lack its scope: refused before the job is looked for."""
    made, job = keys_and_build(sessions, "jobs:read", "datasets:write")
    paths = (await client.get("/openapi.json")).json()["paths"]
    operations = [(m.upper(), p) for p, item in paths.items() for m in item if p.startswith(("/jobs/{", "/studies/{"))]
    assert len(operations) > 15
    for method, template in operations:
        for job_id in (job, uuid4()):  # existing and unknown: the response must be the same
            path = template.replace("{job_id}", str(job_id)).replace("{name}", "best.safetensors")
            response = await client.request(method, path, json={}, headers=bearer(made["datasets:write"]))
            assert (response.status_code, response.json()["code"]) == (403, "forbidden"), (method, path)
            if method != "GET":
                response = await client.request(method, path, json={}, headers=bearer(made["jobs:read"]))
                assert (response.status_code, response.json()["code"]) == (403, "forbidden"), (method, path)


async def test_a_rerun_of_a_build_requires_the_scope_datasets_write(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    made, job = keys_and_build(sessions, "jobs:write", "admin")
    problem(await client.post(f"/jobs/{job}/rerun", headers=bearer(made["jobs:write"])), 403, "forbidden")
    response = await client.post(f"/jobs/{job}/rerun", headers=bearer(made["admin"]))
    assert response.status_code == 202, response.text


def test_a_retry_of_a_build_does_not_count_its_upload_again(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        files = {"files": {"panel": "upload:u/file.csv"}, "sources": {"panel": {"size_bytes": 600}}}
        submitted = submission.submit(
            session,
            submission.NewJob(
                kind=JobKind.DATASET, spec={}, spec_digest="d", queue="cpu", params=files, created_by="me"
            ),
        )
        lifecycle.want(session, submitted.job.id, Wanted.CANCEL, by="me")
        submit_rerun(session, submitted.job.id, RerunKind.RETRY, by="me")
        check_upload_quota(session, "me", 400, limit=1000)
        with pytest.raises(QuotaExceeded):
            check_upload_quota(session, "me", 401, limit=1000)


async def test_a_file_name_cannot_inject_headers_into_a_download(
    client: httpx.AsyncClient, sessions: Sessions, settings: Settings
) -> None:
    with transaction(sessions) as session:
        job = submission.submit(
            session, submission.NewJob(kind=JobKind.TRAIN, spec={}, spec_digest="d", queue="cpu")
        ).job.id
        assert lifecycle.claim(session, job, worker="w", host="h", device="cpu", lease_seconds=60)
        file = settings.run_root / "jobs" / str(job) / "1" / "x"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"<script>")
        for name in ('a"; filename="b.html', "é\x0bb", "../../etc/passwd"):
            path = str(file.relative_to(settings.run_root))
            catalog.add_artifact(
                session, job, 1, name=name, path=path, size_bytes=8, sha256=sha256_of(file), media_type="text/html"
            )
    for name in ("a%22;%20filename=%22b.html", "%C3%A9%0Bb"):
        response = await client.get(f"/jobs/{job}/artifacts/{name}", headers=bearer(ADMIN))
        assert response.status_code == 200, name
        assert response.headers["content-disposition"].startswith("attachment; filename")
        assert '"b.html' not in response.headers["content-disposition"]
        assert "default-src 'self'" in response.headers["content-security-policy"]


async def test_a_log_message_cannot_forge_a_log_line(client: httpx.AsyncClient, sessions: Sessions) -> None:
    forged = "one\n2026-01-01T00:00:00.000Z [1] state succeeded\x1b[2J"
    with transaction(sessions) as session:
        job = submission.submit(
            session, submission.NewJob(kind=JobKind.TRAIN, spec={}, spec_digest="d", queue="cpu")
        ).job.id
        assert lifecycle.claim(session, job, worker="w", host="h", device="cpu", lease_seconds=60)
        history.append(session, job, 1, [Log(child_seq=1, message=forged)])
    text = (await client.get(f"/jobs/{job}/logs", headers=bearer(ADMIN))).text
    assert "info one\n    2026-01-01T00:00:00.000Z [1] state succeeded\ufffd[2J\n" in text


async def test_request_ids_and_paths_cannot_inject_lines_into_the_server_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    headers = bearer("atft_wrong") | {"X-Request-ID": "x\tforged"}
    response = await client.get("/jobs", headers=headers)
    assert "forged" not in response.headers["x-request-id"]
    assert "forged" not in caplog.text
    assert "refused an API key" in caplog.text
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/jobs/a\nforged",
        "headers": [],
        "query_string": b"",
        "state": {},
    }
    assert (await errors._on_unhandled(Request(scope), RuntimeError("a bug"))).status_code == 500
    assert "a bug" in caplog.text
    assert "\nforged" not in caplog.text
