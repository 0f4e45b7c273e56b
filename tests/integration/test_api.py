"""The API on a real record: submits, wrong inputs, lists, results, keys. In process; `test_api_server.py` has the sockets."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from atft.events import DailySeries, Evidence, Log, Metrics, Progress
from jobs import history, keys, store
from jobs.session import transaction
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason
from jobs.tables import Dataset

pytestmark = pytest.mark.anyio
Sessions = sessionmaker[Session]
SPEC = {
    "dataset": "small", "name": "first", "tags": {"desk": "tokyo"}, "data": {"window": 10, "horizons": [1, 5], "min_names": 5},
    "split": {"val_days": 30, "test_days": 30, "embargo_days": 6}, "model": {"hidden_size": 8, "attention_heads": 2, "gat_heads": 2},
}  # fmt: skip


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as client:
        yield client


class serving:  # noqa: N801 - reads as a verb
    """`async with serving(settings) as client`: the application with its lifespan, on this machine's loopback."""

    def __init__(self, settings: Settings, **headers: str) -> None:
        self.app = create_app(settings)
        self.headers = headers

    async def __aenter__(self) -> httpx.AsyncClient:
        self.life = self.app.router.lifespan_context(self.app)
        await self.life.__aenter__()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=self.headers)
        return self.client

    async def __aexit__(self, *error: Any) -> None:
        await self.client.aclose()
        await self.life.__aexit__(None, None, None)


@pytest.fixture
def dataset(sessions: Sessions) -> Dataset:
    """A registered dataset of 200 days, 20 stocks, horizons 1 and 5."""
    manifest = {
        "feature_names": ["f1", "f2", "f3"], "market_names": ["vix"], "horizons": [1, 5], "num_days": 200, "num_codes": 20, "num_rows": 4000,
        "calendar": {"first_day": "2020-01-01", "last_day": "2020-10-06", "num_days": 200},
    }  # fmt: skip
    with transaction(sessions) as session:
        job = store.submit(session, kind=JobKind.DATASET, spec={}, spec_digest="d", queue="cpu", dataset="small").job
        claimed = store.claim(session, job.id, worker="w", host="h", device="cpu", lease_seconds=60)
        assert claimed is not None
        profile = {"names_per_day": {"median": 20.0}}
        found = store.register_dataset(
            session, job, name="small", fingerprint="fp1", spec={"name": "small"}, manifest=manifest, profile=profile, leak_report={},
            path="caches/fp1", size_bytes=10,
        )  # fmt: skip
        store.settle(session, job.id, 1, JobState.SUCCEEDED)
    return found


def problem(answer: httpx.Response, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}
    assert (body["status"], body["code"]) == (status, code), body
    assert body["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    if pointer is not None:
        assert pointer in [error["pointer"] for error in body["errors"]], body
    return body


def run(sessions: Sessions, job_id: UUID, to: JobState | None = JobState.SUCCEEDED) -> None:
    """One attempt that says something of everything."""
    values = {"val/rank_ic": 0.1, "val/rank_ic@5d": None}
    daily = [DailySeries(name="rank_ic", split="val", horizon=5, days=["2020-05-01"], values=[0.1])]
    said = [
        Log(child_seq=1, message="hello"), Metrics(child_seq=2, step=1, values=values, best=True, daily=daily),
        Metrics(child_seq=3, step=2, values={"val/rank_ic": 0.2}), Metrics(child_seq=4, step=0, values={"test/rank_ic@5d": 0.3}, source="ridge"),
        Progress(child_seq=5, phase="train", epoch=2, epochs=3, ratio=0.6, samples_per_second=100.0), Evidence(child_seq=6, body={"device": "cpu"}),
    ]  # fmt: skip
    with transaction(sessions) as session:
        claimed = store.claim(session, job_id, worker="w", host="h", device="cpu", lease_seconds=60)
        assert claimed is not None
        history.append(session, job_id, claimed.attempt, said)
        if to is not None:
            store.settle(session, job_id, claimed.attempt, to, reason=Reason.USER if to is JobState.CANCELLED else None)


async def submit(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await client.post("/jobs/train", json=SPEC | changes)
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_submit_answers_with_the_job_where_it_is(client: httpx.AsyncClient, dataset: Dataset) -> None:
    answer = await client.post("/jobs/train", json=SPEC)
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == f"/jobs/{body['id']}"
    assert (body["state"], body["kind"], body["dataset"], body["dataset_fingerprint"]) == ("queued", "train", "small", "fp1")
    assert body["spec"]["model"]["gat_layers"] == 2
    assert (body["queue"], body["queue_position"], body["pending_reason"]) == ("cpu", 0, "0 live workers on queue cpu")
    assert body["warnings"] == ["no live worker watches queue cpu: the job waits until one starts"]
    again = (await client.get(answer.headers["location"])).json()
    assert {name: body[name] for name in again} == again


async def test_queue_auto_follows_the_live_workers(client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions) -> None:
    with transaction(sessions) as session:
        store.heartbeat_worker(session, name="g", host="h", pid=1, queue="gpu", device="cuda:0", busy_with=None)
    body = await submit(client)
    assert (body["queue"], body["warnings"]) == ("gpu", [])
    assert (await submit(client, resources={"device": "cpu"}))["queue"] == "cpu"
    [worker] = (await client.get("/workers")).json()["items"]
    assert (worker["name"], worker["live"], worker["busy_with"]) == ("g", True, None)


async def test_g2_one_key_and_one_body_are_one_job(client: httpx.AsyncClient, dataset: Dataset) -> None:
    headers = {"Idempotency-Key": "k1"}
    answers = await asyncio.gather(*(client.post("/jobs/train", json=SPEC, headers=headers) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len((await client.get("/jobs?kind=train")).json()["items"]) == 1
    problem(await client.post("/jobs/train", json=SPEC | {"seed": 1}, headers=headers), 422, "idempotency_mismatch")
    await submit(client)
    assert len((await client.get("/jobs?kind=train")).json()["items"]) == 2


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"sheduler": {}}, "invalid_request", "/sheduler"),
        ({"model": {"gat_layers": 0}}, "invalid_request", "/model/gat_layers"),
        ({"split": {"embargo_days": 3}}, "invalid_request", "/split/embargo_days"),
        ({"dataset": "nothing"}, "unknown_dataset", "/dataset"),
        ({"dataset": "small@7"}, "unknown_dataset", "/dataset"),
        ({"data": {"window": 300, "horizons": [1], "min_names": 5}}, "invalid_request", "/data/window"),
        ({"data": {"window": 10, "horizons": [1, 4], "min_names": 5}}, "invalid_request", "/data/horizons"),
        ({"data": {"window": 10, "horizons": [1], "min_names": 5, "features": ["f1", "nope"]}}, "missing_features", "/data/features"),
        ({"data": {"window": 10, "horizons": [1], "min_names": 21}}, "invalid_request", "/data/min_names"),
        ({"split": {"val_days": 150, "test_days": 30, "embargo_days": 6}}, "invalid_request", "/split/val_days"),
        ({"name": "a\x00b"}, "invalid_request", "/name"),
        ({"tags": {"a/b": "\x00"}}, "invalid_request", "/tags/a~1b"),
        ({"optimizer": {"lr": 0}}, "invalid_request", "/optimizer/lr"),
    ],
)  # fmt: skip
async def test_wrong_training_specs_say_where(
    client: httpx.AsyncClient, dataset: Dataset, change: dict[str, Any], code: str, pointer: str
) -> None:
    problem(await client.post("/jobs/train", json=SPEC | change), 422, code, pointer)
    assert (await client.get("/jobs?kind=train")).json()["items"] == []


async def test_missing_feature_is_named(client: httpx.AsyncClient, dataset: Dataset) -> None:
    data = SPEC["data"] | {"features": ["f1", "f9"]}  # type: ignore[operator]
    body = problem(await client.post("/jobs/train", json=SPEC | {"data": data}), 422, "missing_features", "/data/features")
    assert "'f9'" in body["detail"]
    assert "'f1'" not in body["detail"]


async def test_dataset_that_is_being_built_is_told(client: httpx.AsyncClient) -> None:
    job = (await client.post("/datasets", json={"name": "soon", "planted": {}})).json()
    body = problem(await client.post("/jobs/train", json=SPEC | {"dataset": "soon"}), 422, "unknown_dataset", "/dataset")
    assert job["id"] in body["detail"]


async def test_wrong_requests(client: httpx.AsyncClient) -> None:
    json_type = {"Content-Type": "application/json"}
    problem(await client.post("/jobs/train", content=b"{", headers=json_type), 400, "malformed_json")
    problem(await client.post("/jobs/train", content=b"[" * 100_000, headers=json_type), 400, "bad_request")
    problem(await client.post("/jobs/train", content=b"\xff", headers=json_type), 400, "bad_request")
    problem(await client.post("/jobs/train", content=b'{"dataset": "d", "seed": NaN}', headers=json_type), 422, "invalid_request", "/seed")
    problem(await client.post("/jobs/train", content=b'{"dataset": "d", "name": "\\ud800"}', headers=json_type), 422, "invalid_request", "/name")
    problem(await client.post("/jobs/train", content=b"{}", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type")
    problem(await client.post("/jobs/train", content=b"{}"), 415, "unsupported_media_type")
    problem(await client.post("/jobs/train", content=b" " * 1_000_001, headers=json_type), 413, "body_too_large")
    problem(await client.post("/datasets", content=b" " * 1_000_001, headers=json_type), 413, "body_too_large")
    problem(await client.post("/datasets", content=b"[" * 100_000, headers=json_type), 400, "malformed_json")
    problem(await client.post("/jobs/train", json=SPEC, headers={"Idempotency-Key": "a b"}), 422, "invalid_request")
    problem(await client.get("/jobs?limit=0"), 422, "invalid_request")
    problem(await client.get("/jobs?cursor=!"), 422, "invalid_request")
    problem(await client.get("/jobs?q=%00"), 400, "bad_request")
    problem(await client.get("/nothing"), 404, "not_found")
    problem(await client.get("/jobs/"), 404, "not_found")
    problem(await client.get("/jobs/not-an-id"), 404, "not_found")
    for path in ("", "/metrics", "/events", "/logs", "/evidence", "/artifacts", "/artifacts/x"):
        problem(await client.get(f"/jobs/{uuid4()}{path}"), 404, "job_not_found")
    problem(await client.post(f"/jobs/{uuid4()}/cancel"), 404, "job_not_found")


async def test_other_methods_are_refused_with_allow(client: httpx.AsyncClient) -> None:
    for method, path, allow in (
        ("PUT", "/datasets", "GET, HEAD, POST"), ("DELETE", "/jobs", "GET, HEAD"), ("GET", f"/jobs/{uuid4()}/cancel", "POST"),
        ("PATCH", "/datasets/x", "DELETE, GET, HEAD"), ("OPTIONS", "/jobs/train", "GET, HEAD, POST"),
    ):  # fmt: skip
        answer = await client.request(method, path)
        problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allow


async def test_head_is_get_without_a_body(client: httpx.AsyncClient, dataset: Dataset) -> None:
    job = await submit(client)
    for path in ("/jobs", f"/jobs/{job['id']}", f"/jobs/{job['id']}/events", f"/jobs/{job['id']}/logs", "/metrics", "/", "/docs"):
        head, get = await client.head(path), None if path.endswith(("/events", "/logs")) else await client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert get is None or get.headers["content-type"] == head.headers["content-type"]
    assert (await client.head(f"/jobs/{job['id']}/cancel")).status_code == 405


async def test_request_id_is_kept_when_it_is_harmless(client: httpx.AsyncClient) -> None:
    assert (await client.get("/livez", headers={"X-Request-ID": "abc-1"})).headers["x-request-id"] == "abc-1"
    assert (await client.get("/livez", headers={"X-Request-ID": "a b\t<"})).headers["x-request-id"] != "a b\t<"


async def test_list_filters_and_pages(client: httpx.AsyncClient, dataset: Dataset) -> None:
    made = [(await submit(client, name=f"job {i}", tags={"n": str(i % 2)}))["id"] for i in range(5)]
    seen: list[str] = []
    url = "/jobs?kind=train&limit=2"
    while url:
        page = await client.get(url)
        seen += [job["id"] for job in page.json()["items"]]
        url = page.links.get("next", {}).get("url", "")
        assert bool(url) == (page.json()["next_cursor"] is not None)
    assert seen == made[::-1]
    for query, expected in {"tag=n=1": [3, 1], "q=job%203": [3], "state=failed": [], "dataset=small&tag=n": [4, 3, 2, 1, 0]}.items():
        found = (await client.get(f"/jobs?kind=train&{query}")).json()["items"]
        assert [job["id"] for job in found] == [made[i] for i in expected], query
    assert (await client.get(f"/jobs?parent_id={made[0]}")).json()["items"] == []


async def test_etag_and_if_match(client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions) -> None:
    job = await submit(client)
    url = f"/jobs/{job['id']}"
    tag = (await client.get(url)).headers["etag"]
    run(sessions, UUID(job["id"]), to=None)
    problem(await client.post(f"{url}/cancel", headers={"If-Match": tag}), 412, "precondition_failed")
    problem(await client.post(f"{url}/cancel", headers={"If-Match": '"never ours"'}), 412, "precondition_failed")
    running = await client.get(url)
    assert running.json()["progress"]["ratio"] == 0.6
    assert (await client.get(url, headers={"If-None-Match": running.headers["etag"]})).status_code == 304
    answer = await client.post(f"{url}/cancel", headers={"If-Match": running.headers["etag"]})
    assert (answer.status_code, answer.json()["state"], answer.json()["status"]) == (202, "running", "cancelling")


async def test_cancel(client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions) -> None:
    queued = await submit(client)
    for _ in range(2):
        answer = await client.post(f"/jobs/{queued['id']}/cancel")
        assert (answer.status_code, answer.json()["state"], answer.json()["reason"]) == (202, "cancelled", "user")
    done = await submit(client)
    run(sessions, UUID(done["id"]))
    problem(await client.post(f"/jobs/{done['id']}/cancel"), 409, "illegal_move")


async def test_metrics(client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions) -> None:
    job = await submit(client)
    url = f"/jobs/{job['id']}/metrics"
    assert (await client.get(url)).json()["series"] == {}
    run(sessions, UUID(job["id"]))
    body = (await client.get(url)).json()
    assert set(body) == {"job_id", "state", "attempt", "latest", "best", "baselines", "series"}
    assert body["latest"] == {"val/rank_ic": 0.2, "val/rank_ic@5d": None}
    assert body["series"] == {"val/rank_ic": {"step": [1, 2], "value": [0.1, 0.2]}, "val/rank_ic@5d": {"step": [1], "value": [None]}}
    assert (body["best"]["epoch"], body["best"]["objective"], body["best"]["value"]) == (1, "val/rank_ic", 0.1)
    assert body["baselines"] == {"ridge": {"test/rank_ic@5d": 0.3}}
    some = (await client.get(url, params={"name": "val/rank_ic@", "after_step": 0})).json()["series"]
    assert list(some) == ["val/rank_ic@5d"]
    assert (await client.get(url, params={"after_step": 1, "name": "val/rank_ic"})).json()["series"]["val/rank_ic"]["step"] == [2]
    csv = await client.get(url, params={"format": "csv"})
    assert csv.text.splitlines() == ['"name","step","value"', '"val/rank_ic",1,0.1', '"val/rank_ic",2,0.2', '"val/rank_ic@5d",1,']
    table = pq.read_table(io.BytesIO((await client.get(url, params={"format": "parquet"})).content))
    assert table.column("value").to_pylist() == [0.1, 0.2, None]
    view = (await client.get(f"/jobs/{job['id']}")).json()
    assert (view["metrics"]["val/rank_ic"], view["state"]) == (0.2, "succeeded")
    assert (await client.get(f"/jobs/{job['id']}/evidence")).json() == {"device": "cpu"}


async def test_logs_are_text(client: httpx.AsyncClient, dataset: Dataset, settings: Settings, sessions: Sessions) -> None:
    job = await submit(client)
    run(sessions, UUID(job["id"]))
    text = (await client.get(f"/jobs/{job['id']}/logs")).text
    assert [line.split(" ", 1)[1] for line in text.splitlines()] == ["[0] state queued", "[1] state running", "[1] info hello", "[1] state succeeded"]
    folder = settings.jobs_root / job["id"] / "1"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("raw output\n")
    assert (await client.get(f"/jobs/{job['id']}/logs?source=process")).text == "raw output\n"
    assert (await client.get(f"/jobs/{job['id']}/logs?follow=true&source=process")).text == "raw output\n"


async def test_plan_stores_nothing(client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions) -> None:
    answer = await client.post("/jobs/train?dry_run=true", json=SPEC)
    assert answer.status_code == 200
    plan = answer.json()
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
            problem(await client.get("/jobs", headers=[(b"authorization", b"Bearer " + token.encode())]), 401, "unauthorized")
        as_reader = {"Authorization": f"Bearer {reader}"}
        assert (await client.get("/jobs", headers=as_reader)).status_code == 200
        problem(await client.post("/jobs/train", json=SPEC, headers=as_reader), 403, "forbidden")
        assert (await client.get("/livez")).status_code == 200


async def test_admin_key_opens_everything(settings: Settings, dataset: Dataset) -> None:
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
    assert (ready.status_code, set(ready.json()["checks"])) == (200, {"database", "migrations", "broker", "workers", "disk"})
