"""Results of a job through the API: metrics, logs, evidence, plans; and the scopes they need."""

import io
import json
from uuid import UUID

import httpx
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from jobs.access import keys
from jobs.db.session import transaction
from jobs.db.tables import Dataset
from jobs.settings import Settings
from tests.integration.api.application import SPEC, Sessions, problem, run, serving, submit

pytestmark = pytest.mark.anyio


async def test_metrics(client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions) -> None:
    job = await submit(client)
    url = f"/jobs/{job['id']}/metrics"
    assert (await client.get(url)).json()["series"] == {}
    run(sessions, UUID(job["id"]))
    body = (await client.get(url)).json()
    assert set(body) == {"job_id", "state", "attempt", "latest", "best", "baselines", "series", "last_seq"}
    assert body["latest"] == {"val/rank_ic": 0.2, "val/rank_ic@5d": None}
    assert body["series"] == {
        "val/rank_ic": {"step": [1, 2], "value": [0.1, 0.2]},
        "val/rank_ic@5d": {"step": [1], "value": [None]},
    }
    assert (body["best"]["epoch"], body["best"]["objective"], body["best"]["value"]) == (1, "val/rank_ic", 0.1)
    assert body["baselines"] == {"ridge": {"test/rank_ic@5d": 0.3}}
    some = (await client.get(url, params={"name": "val/rank_ic@", "after_step": 0})).json()["series"]
    assert list(some) == ["val/rank_ic@5d"]
    assert (await client.get(url, params={"after_step": 1, "name": "val/rank_ic"})).json()["series"]["val/rank_ic"][
        "step"
    ] == [2]
    csv = await client.get(url, params={"format": "csv"})
    assert csv.text.splitlines() == [
        '"name","step","value"',
        '"val/rank_ic",1,0.1',
        '"val/rank_ic",2,0.2',
        '"val/rank_ic@5d",1,',
    ]
    table = pq.read_table(io.BytesIO((await client.get(url, params={"format": "parquet"})).content))
    assert table.column("value").to_pylist() == [0.1, 0.2, None]
    board = await client.get(f"/jobs/{job['id']}/tensorboard")
    assert b"brain.Event:2" in board.content
    assert board.content.count(b"val/rank_ic") == 3
    assert job["id"] in board.headers["content-disposition"]
    assert (await client.head(f"/jobs/{job['id']}/tensorboard")).status_code == 200
    events = await client.get(f"/jobs/{job['id']}/events?after={body['last_seq'] - 1}")
    assert events.text.count("event: state") == 1  # the series were as of the last event
    view = (await client.get(f"/jobs/{job['id']}")).json()
    assert (view["metrics"]["val/rank_ic"], view["state"]) == (0.2, "succeeded")
    assert (await client.get(f"/jobs/{job['id']}/evidence")).json() == {"micro_batch_days": 4}


async def test_a_submit_is_logged_with_its_request_and_its_job(
    client: httpx.AsyncClient, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    response = await client.post("/jobs/train", json=SPEC, headers={"X-Request-ID": "mine"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    [line] = [line for line in lines if line.get("request_id") == "mine"]
    logged = (line["method"], line["path"], line["status"], line["job_id"])
    assert logged == ("POST", "/jobs/train", 202, response.json()["id"])


async def test_logs_are_plain_text_and_can_be_limited(
    client: httpx.AsyncClient, dataset: Dataset, settings: Settings, sessions: Sessions
) -> None:
    job = await submit(client)
    run(sessions, UUID(job["id"]))
    text = (await client.get(f"/jobs/{job['id']}/logs")).text
    assert [line.split(" ", 1)[1] for line in text.splitlines()] == [
        "[0] state queued",
        "[1] state running",
        "[1] info hello",
        "[1] state succeeded",
    ]
    tail = (await client.get(f"/jobs/{job['id']}/logs?tail=2")).text
    assert tail.splitlines() == text.splitlines()[-2:]
    assert (await client.get(f"/jobs/{job['id']}/logs?tail=1&follow=true")).text == tail.splitlines(keepends=True)[-1]
    folder = settings.jobs_root / job["id"] / "1"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("raw output\n")
    assert (await client.get(f"/jobs/{job['id']}/logs?source=process")).text == "raw output\n"
    assert (await client.get(f"/jobs/{job['id']}/logs?follow=true&source=process")).text == "raw output\n"


async def test_plan_stores_nothing(client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions) -> None:
    response = await client.post("/jobs/train?dry_run=true", json=SPEC)
    assert response.status_code == 200
    plan = response.json()
    assert (plan["epochs"], plan["days_per_step"], plan["steps_per_epoch"]) == (10, 205, 1)
    assert (plan["num_val_days"], plan["num_test_days"], plan["queue"], plan["queue_position"]) == (30, 30, "cpu", 0)
    assert plan["num_parameters"] > 100
    assert plan["estimated_seconds"] is None
    assert plan["spec"]["trainer"]["batch_size"] == 4096
    assert (await client.get("/jobs?kind=train")).json()["items"] == []
    run(sessions, UUID((await submit(client))["id"]))
    assert (await client.post("/jobs/train?dry_run=true", json=SPEC)).json()["estimated_seconds"] > 0
    problem(await client.post("/jobs/train?dry_run=true", json=SPEC | {"x": 1}), 422, "invalid_request", "/x")


async def test_keys_and_scopes(settings: Settings, dataset: Dataset, sessions: Sessions) -> None:
    with transaction(sessions) as session:
        _, reader = keys.create(session, name="reader", scopes=["jobs:read"])
        revoked, lost = keys.create(session, name="lost", scopes=["admin"])
        keys.revoke(session, revoked.id)
    async with serving(settings) as client:
        refused = await client.get("/jobs")
        problem(refused, 401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
        for token in (lost, "nonsense", "é"):
            problem(
                await client.get("/jobs", headers=[(b"authorization", b"Bearer " + token.encode())]),
                401,
                "unauthorized",
            )
        as_reader = {"Authorization": f"Bearer {reader}"}
        assert (await client.get("/jobs", headers=as_reader)).status_code == 200
        problem(await client.post("/jobs/train", json=SPEC, headers=as_reader), 403, "forbidden")
        assert (await client.get("/livez")).status_code == 200


async def test_admin_key_has_every_scope(settings: Settings, dataset: Dataset) -> None:
    locked = settings.model_copy(update={"admin_key": SecretStr("s3cret")})
    async with serving(locked) as client:
        problem(await client.get("/jobs"), 401, "unauthorized")
    async with serving(locked, Authorization="Bearer s3cret") as client:
        await submit(client)


async def test_figures(client: httpx.AsyncClient, dataset: Dataset) -> None:
    await submit(client)
    text = (await client.get("/metrics")).text
    assert 'atft_jobs{kind="train",state="queued"} 1.0' in text
    assert 'atft_queue_depth{queue="cpu"} 1.0' in text
    assert 'atft_http_requests_total{method="POST",route="/jobs/train",status="202"} 1.0' in text
    ready = await client.get("/readyz?verbose")
    assert (ready.status_code, set(ready.json()["checks"])) == (
        200,
        {"database", "migrations", "broker", "workers", "disk", "store"},
    )
