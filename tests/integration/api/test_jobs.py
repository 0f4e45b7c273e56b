"""Submit, wrong requests, lists and cancel, on a real database. `test_server.py` uses real sockets."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from jobs.db.session import transaction
from jobs.db.tables import Dataset
from jobs.record import queries
from tests.integration.api.application import SPEC, Sessions, problem, run, submit

pytestmark = pytest.mark.anyio


async def test_submit_returns_the_job_and_its_location(client: httpx.AsyncClient, dataset: Dataset) -> None:
    response = await client.post("/jobs/train", json=SPEC)
    assert response.status_code == 202
    body = response.json()
    assert response.headers["location"] == f"/jobs/{body['id']}"
    assert (body["state"], body["kind"], body["dataset"], body["dataset_fingerprint"]) == (
        "queued",
        "train",
        "small",
        "fp1",
    )
    assert body["spec"]["model"]["gat_layers"] == 2
    assert (body["queue"], body["queue_position"], body["pending_reason"]) == ("cpu", 0, "0 live workers on queue cpu")
    assert body["warnings"] == ["no live worker watches queue cpu: the job waits until one starts"]
    again = (await client.get(response.headers["location"])).json()
    assert {name: body[name] for name in again} == again


async def test_queue_auto_follows_the_live_workers(
    client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions
) -> None:
    with transaction(sessions) as session:
        queries.heartbeat_worker(session, name="g", host="h", pid=1, queue="gpu", device="cuda:0", busy_with=None)
    body = await submit(client)
    assert (body["queue"], body["warnings"]) == ("gpu", [])
    assert (await submit(client, resources={"device": "cpu"}))["queue"] == "cpu"
    [worker] = (await client.get("/workers")).json()["items"]
    assert (worker["name"], worker["live"], worker["busy_with"]) == ("g", True, None)


async def test_g2_one_key_and_one_body_are_one_job(client: httpx.AsyncClient, dataset: Dataset) -> None:
    headers = {"Idempotency-Key": "k1"}
    responses = await asyncio.gather(*(client.post("/jobs/train", json=SPEC, headers=headers) for _ in range(50)))
    assert {response.status_code for response in responses} == {202}
    assert len({response.json()["id"] for response in responses}) == 1
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
        (
            {"data": {"window": 10, "horizons": [1], "min_names": 5, "features": ["f1", "nope"]}},
            "missing_features",
            "/data/features",
        ),
        ({"data": {"window": 10, "horizons": [1], "min_names": 21}}, "invalid_request", "/data/min_names"),
        ({"split": {"val_days": 150, "test_days": 30, "embargo_days": 6}}, "invalid_request", "/split/val_days"),
        ({"name": "a\x00b"}, "invalid_request", "/name"),
        ({"tags": {"a/b": "\x00"}}, "invalid_request", "/tags/a~1b"),
        ({"optimizer": {"lr": 0}}, "invalid_request", "/optimizer/lr"),
    ],
)
async def test_invalid_training_specs_are_refused_with_pointers(
    client: httpx.AsyncClient, dataset: Dataset, change: dict[str, Any], code: str, pointer: str
) -> None:
    problem(await client.post("/jobs/train", json=SPEC | change), 422, code, pointer)
    assert (await client.get("/jobs?kind=train")).json()["items"] == []


async def test_missing_feature_is_named(client: httpx.AsyncClient, dataset: Dataset) -> None:
    data = SPEC["data"] | {"features": ["f1", "f9"]}  # type: ignore[operator]
    body = problem(
        await client.post("/jobs/train", json=SPEC | {"data": data}), 422, "missing_features", "/data/features"
    )
    assert "'f9'" in body["detail"]
    assert "'f1'" not in body["detail"]


async def test_training_on_a_dataset_that_is_being_built_is_refused_with_the_reason(client: httpx.AsyncClient) -> None:
    job = (await client.post("/datasets", json={"name": "soon", "planted": {}})).json()
    body = problem(
        await client.post("/jobs/train", json=SPEC | {"dataset": "soon"}), 422, "unknown_dataset", "/dataset"
    )
    assert job["id"] in body["detail"]


async def test_wrong_requests(client: httpx.AsyncClient) -> None:
    json_type = {"Content-Type": "application/json"}
    problem(await client.post("/jobs/train", content=b"{", headers=json_type), 400, "malformed_json")
    problem(await client.post("/jobs/train", content=b"[" * 100_000, headers=json_type), 400, "bad_request")
    problem(await client.post("/jobs/train", content=b"\xff", headers=json_type), 400, "bad_request")
    problem(
        await client.post("/jobs/train", content=b'{"dataset": "d", "seed": NaN}', headers=json_type),
        422,
        "invalid_request",
        "/seed",
    )
    problem(
        await client.post("/jobs/train", content=b'{"dataset": "d", "name": "\\ud800"}', headers=json_type),
        422,
        "invalid_request",
        "/name",
    )
    problem(
        await client.post("/jobs/train", content=b"{}", headers={"Content-Type": "text/plain"}),
        415,
        "unsupported_media_type",
    )
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
        ("PUT", "/datasets", "GET, HEAD, POST"),
        ("DELETE", "/jobs", "GET, HEAD"),
        ("GET", f"/jobs/{uuid4()}/cancel", "POST"),
        ("PATCH", "/datasets/x", "DELETE, GET, HEAD"),
        ("OPTIONS", "/jobs/train", "GET, HEAD, POST"),
    ):
        response = await client.request(method, path)
        problem(response, 405, "method_not_allowed")
        assert response.headers["allow"] == allow


async def test_head_is_get_without_a_body(client: httpx.AsyncClient, dataset: Dataset) -> None:
    job = await submit(client)
    for path in (
        "/jobs",
        f"/jobs/{job['id']}",
        f"/jobs/{job['id']}/events",
        f"/jobs/{job['id']}/logs",
        "/metrics",
        "/",
        "/docs",
    ):
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
    for query, expected in {
        "tag=n=1": [3, 1],
        "q=job%203": [3],
        f"q={made[2][:-1].upper()}": [2],
        "q=0-": [],
        "state=failed": [],
        "dataset=small&tag=n": [4, 3, 2, 1, 0],
    }.items():
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
    response = await client.post(f"{url}/cancel", headers={"If-Match": running.headers["etag"]})
    assert (response.status_code, response.json()["state"], response.json()["status"]) == (202, "running", "cancelling")


async def test_cancel(client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions) -> None:
    queued = await submit(client)
    for _ in range(2):
        response = await client.post(f"/jobs/{queued['id']}/cancel")
        assert (response.status_code, response.json()["state"], response.json()["reason"]) == (202, "cancelled", "user")
    done = await submit(client)
    run(sessions, UUID(done["id"]))
    problem(await client.post(f"/jobs/{done['id']}/cancel"), 409, "illegal_move")


async def test_pause_and_resume(client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions) -> None:
    job = await submit(client)
    url = f"/jobs/{job['id']}"
    for path, state in (("pause", "paused"), ("pause", "paused"), ("resume", "queued"), ("resume", "queued")):
        response = await client.post(f"{url}/{path}")
        assert (response.status_code, response.json()["state"]) == (202, state)
    run(sessions, UUID(job["id"]), to=None)
    assert (await client.post(f"{url}/pause")).json()["status"] == "pausing"
    assert (await client.post(f"{url}/cancel")).json()["status"] == "cancelling"
    problem(await client.post(f"{url}/resume"), 409, "illegal_move")
