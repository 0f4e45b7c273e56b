"""The queue position and pending reason of a queued job, warnings at submit, and the queue timeout."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest

from jobs.db.session import transaction
from jobs.record import queries
from jobs.record.transitions import postpone
from jobs.states import Reason
from tests.integration.api.application import Sessions, problem, submit
from worker.upkeep.sweeper import Sweeper

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("dataset")]


def worker(sessions: Sessions, queue: str) -> None:
    with transaction(sessions) as session:
        queries.heartbeat_worker(session, name=queue, host="h", pid=1, queue=queue, device=queue, busy_with=None)


async def pending(client: httpx.AsyncClient, job: dict[str, Any]) -> tuple[int | None, str | None]:
    body = (await client.get(f"/jobs/{job['id']}")).json()
    return body["queue_position"], body["pending_reason"]


async def test_priority_decides_the_queue_position(client: httpx.AsyncClient, sessions: Sessions) -> None:
    worker(sessions, "cpu")
    first, second, late = [await submit(client, resources={"queue": "cpu"}) for _ in range(3)]
    urgent = await submit(client, resources={"queue": "cpu", "priority": 0})
    last = await submit(client, resources={"queue": "cpu", "priority": 9})
    assert [await pending(client, job) for job in (urgent, first, second, late, last)] == [
        (0, "next on queue cpu"), (1, "1 ahead"), (2, "2 ahead"), (3, "3 ahead"), (4, "4 ahead"),
    ]  # fmt: skip
    assert (late["queue_position"], late["pending_reason"]) == (2, "2 ahead")  # as in the response of the submit
    assert (await client.post(f"/jobs/{first['id']}/cancel")).status_code == 202
    assert await pending(client, late) == (2, "2 ahead")
    assert await pending(client, first) == (None, None)
    listed = (await client.get("/jobs?kind=train&state=queued")).json()["items"]
    assert {job["id"]: job["queue_position"] for job in listed} == {
        urgent["id"]: 0, second["id"]: 1, late["id"]: 2, last["id"]: 3,
    }  # fmt: skip
    with transaction(sessions) as session:
        assert postpone(session, UUID(second["id"]), 3600, Reason.OOM_HOST, "waits for memory")
    assert await pending(client, late) == (1, "1 ahead")  # a job that is not due is not ahead
    planned = (await client.post("/jobs/train?dry_run=true", json=late["spec"])).json()
    assert planned["queue_position"] == 2


async def test_submit_to_a_queue_without_a_worker_returns_a_warning(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    worker(sessions, "cpu")
    watched = await submit(client, resources={"queue": "cpu"})
    assert watched["warnings"] == []
    lonely = await submit(client, resources={"queue": "gpu"})
    assert lonely["warnings"] == ["no live worker watches queue gpu: the job waits until one starts"]
    assert await pending(client, lonely) == (0, "0 live workers on queue gpu")
    plan = await client.post("/jobs/train?dry_run=true", json={**watched["spec"], "resources": {"queue": "gpu"}})
    assert plan.json()["warnings"] == lonely["warnings"]
    worker(sessions, "gpu")
    assert await pending(client, lonely) == (0, "next on queue gpu")


async def test_a_job_that_waits_past_its_queue_timeout_fails(client: httpx.AsyncClient, sessions: Sessions) -> None:
    impatient = await submit(client, resources={"queue": "gpu", "queue_timeout_seconds": 0.05})
    patient = await submit(client, resources={"queue": "gpu", "queue_timeout_seconds": 60})
    published: list[UUID] = []
    sweeper = Sweeper(sessions, 4.0, hint=lambda *_: None, queue_is_empty=lambda _: False, publish=published.append)
    async with asyncio.timeout(15):
        while not published:
            await asyncio.sleep(0.02)
            sweeper.sweep()
    body = (await client.get(f"/jobs/{impatient['id']}")).json()
    assert (body["state"], body["reason"]) == ("failed", "timeout_queue")
    assert "queue" in body["message"]
    assert (body["queue_position"], body["pending_reason"]) == (None, None)
    assert published == [UUID(impatient["id"])]
    assert await pending(client, patient) == (0, "0 live workers on queue gpu")
    wrong = {**patient["spec"], "resources": {"queue_timeout_seconds": 0}}
    problem(await client.post("/jobs/train", json=wrong), 422, "invalid_request", "/resources/queue_timeout_seconds")
