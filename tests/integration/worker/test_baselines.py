"""Runs that end without baselines, the one job that computes them, and what the API says of both."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest

from atft.events import AnyEvent, Metrics
from jobs.db.session import transaction
from jobs.db.tables import Dataset
from jobs.record import history, lifecycle
from jobs.record.reruns import RerunKind, submit_rerun
from jobs.states import JobState
from tests.integration.api.application import Sessions, problem, submit
from tests.integration.api.test_comparisons import series
from worker.attempt.outcome import Outcome
from worker.attempt.settlement import Settled, Settlement

pytestmark = pytest.mark.anyio
METRIC = "test/rank_ic@5d"


def settle(sessions: Sessions, job_id: str, *sources: str | None) -> Settled:
    """One attempt that succeeds with values of these sources, settled as the worker does it."""
    events: list[AnyEvent] = [
        Metrics(child_seq=number, step=1, values={METRIC: 0.1 * number}, daily=series("test", number), source=source)
        for number, source in enumerate(sources, start=1)
    ]
    with transaction(sessions) as session:
        job = lifecycle.claim(session, UUID(job_id), worker="w", host="h", device="cpu", lease_seconds=60)
        assert job is not None
        history.append(session, job.id, job.attempt, events)
    with transaction(sessions) as session:
        return Settlement(outcome=Outcome(to=JobState.SUCCEEDED)).write(session, job, 0.0)


async def show(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    seen: dict[str, Any] = (await client.get(f"/jobs/{job_id}")).json()
    return seen


async def test_runs_of_equal_data_and_split_share_one_job(
    client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions
) -> None:
    runs = [(await submit(client, name=f"run {seed}", seed=seed))["id"] for seed in range(3)]
    other = (await submit(client, split={"val_days": 20, "test_days": 30, "embargo_days": 6}))["id"]
    assert (await show(client, other))["verdict"] is None
    at_once = await asyncio.gather(*(asyncio.to_thread(settle, sessions, one, None) for one in [*runs, other]))
    made = [settled.due for settled in at_once if settled.due is not None]
    assert len(made) == 2
    assert {(job.kind, job.priority, job.queue) for job in made} == {("baselines", 9, "cpu")}
    pending = [await show(client, one) for one in runs]
    assert {one["verdict"] for one in pending} == {"pending"}
    (computing,) = {one["baselines_job_id"] for one in pending}
    assert (await show(client, other))["baselines_job_id"] not in (None, computing)
    assert {(await show(client, computing))[name] for name in ("verdict", "baselines_job_id")} == {None}
    listed = (await client.get("/jobs", params={"kind": "baselines"})).json()["items"]
    assert {one["id"] for one in listed} == {str(job.id) for job in made}
    compare = {"job": runs[0], "baseline": "ridge", "metric": METRIC}
    refused = problem(await client.get("/compare", params=compare), 422, "invalid_request")
    assert f"job {computing} still computes those of {runs[0]}" in refused["detail"]

    seen = await client.get(f"/jobs/{runs[0]}")
    assert settle(sessions, computing, "zero", "ridge") == (JobState.SUCCEEDED, None)
    seen = await client.get(f"/jobs/{runs[0]}", headers={"If-None-Match": seen.headers["etag"]})
    assert (seen.json()["verdict"], seen.json()["baselines_job_id"]) == ("ready", computing)
    metrics = (await client.get(f"/jobs/{runs[1]}/metrics")).json()
    assert metrics["latest"] == {METRIC: 0.1}
    assert metrics["baselines"] == {"zero": {METRIC: 0.1}, "ridge": {METRIC: 0.2}}
    compared = (await client.get("/compare", params=compare)).json()
    assert [job["id"] for job in compared["jobs"]] == [runs[0], "baseline:ridge"]
    assert compared["pairs"][0]["num_days"] == 60

    late = (await submit(client, seed=9))["id"]
    assert settle(sessions, late, None).due is None
    assert (await show(client, late))["verdict"] == "ready"
    with transaction(sessions) as session:
        assert "baselines" not in (submit_rerun(session, UUID(late), RerunKind.RERUN, by="test").job.params or {})


async def test_a_run_with_baselines_of_its_own_waits_for_no_job(
    client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions
) -> None:
    own, none = (await submit(client))["id"], (await submit(client, baselines=False))["id"]
    assert settle(sessions, own, None, "zero", "ridge").due is None
    assert settle(sessions, none, None).due is None
    assert [(await show(client, one))["verdict"] for one in (own, none)] == ["ready", None]
    assert (await client.get("/jobs", params={"kind": "baselines"})).json()["items"] == []


async def test_the_failure_of_the_job_is_the_verdict_until_a_retry(
    client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions
) -> None:
    run = (await submit(client))["id"]
    settled = settle(sessions, run, None)
    assert settled.due is not None
    computing = str(settled.due.id)
    assert (await client.post(f"/jobs/{computing}/cancel")).status_code == 202
    verdict = (await show(client, run))["verdict"]
    assert verdict == f"no baselines: job {computing} cancelled (user); retry it to compute them"
    again = (await client.post(f"/jobs/{computing}/retry")).json()["id"]
    seen = await show(client, run)
    assert (seen["verdict"], seen["baselines_job_id"]) == ("pending", again)
