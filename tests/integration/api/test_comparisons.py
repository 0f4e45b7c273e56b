"""`GET /compare` on rows like those that a worker writes."""

from typing import Any
from uuid import UUID, uuid4

import httpx
import numpy as np
import pytest

from atft.events import DailySeries, Evidence, Metrics
from jobs.db.session import transaction
from jobs.db.tables import Dataset
from jobs.record import history, lifecycle, submission
from jobs.states import JobKind, JobState, Reason
from tests.integration.api.application import Sessions, problem, statements, submit

pytestmark = pytest.mark.anyio
DAYS = [str(day) for day in np.arange("2020-05-01", "2020-06-30", dtype="datetime64[D]")]


def series(split: str, seed: int, mean: float = 0.0) -> list[DailySeries]:
    drawn = {h: np.random.default_rng([seed, h]).normal(mean, 0.05, len(DAYS)).tolist() for h in (1, 5)}
    return [
        DailySeries.model_validate({"name": name, "split": split, "horizon": h, "days": DAYS, "values": values})
        for h, values in drawn.items()
        for name in ("rank_ic", "long_short")
    ]


def end(sessions: Sessions, job_id: str, seed: int, mean: float = 0.0, to: JobState = JobState.SUCCEEDED) -> None:
    """One attempt with a ridge baseline; the fifth day of its own series is undefined."""
    own = [*series("test", seed, mean), *series("val", seed, mean)]
    own = [one.model_copy(update={"values": [*one.values[:4], None, *one.values[5:]]}) for one in own]
    days = {"train_days": ["2019-01-01"], "val_days": ["2020-01-01"], "test_days": DAYS}
    ridge = [*series("test", 99), *(one for one in series("val", 99) if one.name == "rank_ic")]
    events = [
        Metrics(child_seq=1, step=1, values={"val/rank_ic": 0.1, "val/rank_ic@5d": 0.2}, best=True),
        Metrics(child_seq=2, step=2, values={"val/rank_ic": 0.1, "val/rank_ic@5d": None}),
        Metrics(child_seq=3, step=1, values={"test/rank_ic@5d": 0.3}, daily=own),
        Metrics(child_seq=4, step=1, values={"test/rank_ic@5d": 0.3}, daily=ridge, source="ridge"),
        Evidence(child_seq=5, body={"data": days, "baselines": {"ridge": [{"columns": 8, "days_share": 1.0}]}}),
    ]
    with transaction(sessions) as session:
        claimed = lifecycle.claim(session, UUID(job_id), worker="w", host="h", device="cpu", lease_seconds=60)
        assert claimed is not None
        history.append(session, claimed.id, 1, events)
        reason = Reason.EVIDENCE_MISMATCH if to is JobState.FAILED else None
        lifecycle.settle(session, claimed.id, 1, to, lifecycle.AttemptEnd(reason=reason))


async def job(client: httpx.AsyncClient, sessions: Sessions, name: str, draw: int, **changes: Any) -> str:
    """Submit and run a job; `mean` and `to` in `changes` describe the run, other fields the spec."""
    run = {key: changes.pop(key) for key in ("mean", "to") if key in changes}
    job_id: str = (await submit(client, name=name, **changes))["id"]
    end(sessions, job_id, draw, **run)
    return job_id


async def compared(client: httpx.AsyncClient, *jobs: str, **params: Any) -> dict[str, Any]:
    response = await client.get("/compare", params={"job": list(jobs), **params})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


@pytest.mark.usefixtures("dataset")
async def test_two_optimizers(client: httpx.AsyncClient, sessions: Sessions) -> None:
    a = await job(client, sessions, "adamw", 1)
    b = await job(client, sessions, "adabelief", 2, mean=0.08, optimizer={"name": "adabelief"})
    body = await compared(client, a, b, metric="test/rank_ic@5d")
    assert set(body) == {
        "metric", "jobs", "differences", "fair", "unfair_because", "pairs", "model_confidence_set", "curves",
    }  # fmt: skip
    assert body["metric"] == "test/rank_ic@5d"
    assert (body["fair"], body["unfair_because"]) == (True, [])
    assert body["differences"] == {"optimizer.name": ["adamw", "adabelief"]}
    own = list(series("test", 1)[2].values)
    defined = np.array([*own[:4], *own[5:]])
    first = body["jobs"][0]
    assert (first["id"], first["name"], first["state"], first["num_days"]) == (a, "adamw", "succeeded", len(DAYS) - 1)
    assert first["mean"] == pytest.approx(defined.mean())
    assert first["std"] == pytest.approx(defined.std(ddof=1))
    [pair] = body["pairs"]
    assert (pair["a"], pair["b"], pair["num_days"], pair["num_dropped"]) == (a, b, len(DAYS) - 1, 1)
    assert pair["mean_difference"] < 0
    assert pair["ci95"][1] < 0
    assert pair["verdict"] == "adabelief is better than adamw"
    assert body["model_confidence_set"] is None
    assert body["curves"][a] == {"step": [1, 2], "value": [0.2, None]}


@pytest.mark.usefixtures("dataset")
async def test_issue_3_fairness_cases(client: httpx.AsyncClient, sessions: Sessions) -> None:
    a = await job(client, sessions, "a", 1)
    seed = await job(client, sessions, "seed", 2, seed=1)
    two = await job(client, sessions, "two", 3, optimizer={"name": "adabelief", "lr": 1e-3})
    failed = await job(client, sessions, "failed", 4, to=JobState.FAILED, optimizer={"lr": 1e-3})
    queued = (await submit(client, name="queued", optimizer={"lr": 1e-3}))["id"]
    reasons_by_name = {
        name: (await compared(client, a, other))["unfair_because"]
        for name, other in (("seed", seed), ("two", two), ("failed", failed), ("queued", queued))
    }
    assert {name: len(reasons) for name, reasons in reasons_by_name.items()} == {
        "seed": 1,
        "two": 1,
        "failed": 1,
        "queued": 1,
    }
    assert "seed only" in reasons_by_name["seed"][0]
    assert "2 settings differ (optimizer.lr, optimizer.name)" in reasons_by_name["two"][0]
    assert "failed is failed" in reasons_by_name["failed"][0]
    assert "queued is queued" in reasons_by_name["queued"][0]
    shown = (await compared(client, a, failed))["jobs"][1]
    assert (shown["mean"], shown["num_days"], shown["state"]) == (None, 0, "failed")


@pytest.mark.usefixtures("dataset")
async def test_three_sides_baseline_and_validation_days(client: httpx.AsyncClient, sessions: Sessions) -> None:
    a = await job(client, sessions, "a", 1, mean=0.1)
    b = await job(client, sessions, "a", 2, mean=0.1, optimizer={"lr": 1e-3})
    body = await compared(client, a, b, baseline="ridge")
    assert body["metric"] == "test/rank_ic"
    assert [one["id"] for one in body["jobs"]] == [a, b, "baseline:ridge"]
    assert (body["jobs"][2]["state"], body["jobs"][2]["num_days"]) == (None, len(DAYS))
    assert body["fair"]
    assert body["model_confidence_set"] is None  # the mean over horizons overlaps for 5 days: 60 are too few
    daily = await compared(client, a, b, baseline="ridge", metric="test/rank_ic@1d")
    assert daily["model_confidence_set"] == [a, b]
    assert [pair["b"] for pair in body["pairs"]] == [b, "baseline:ridge", "baseline:ridge"]
    assert body["pairs"][1]["verdict"] == f"a (train {a[-8:]}) is better than ridge"
    assert (await compared(client, a, baseline="ridge"))["fair"]
    on_val = await compared(client, a, b, metric="val/rank_ic@5d")
    assert not on_val["fair"]
    assert "selected on these validation days" in on_val["unfair_because"][0]
    spread = await compared(client, a, b, metric="test/long_short@1d")
    assert (spread["fair"], spread["curves"]) == (True, {})


@pytest.mark.usefixtures("dataset")
async def test_a_comparison_takes_two_statements_for_each_job(client: httpx.AsyncClient, sessions: Sessions) -> None:
    jobs = [await job(client, sessions, str(n), n, seed=n) for n in range(3)]
    counts = []
    for some in (jobs[:2], jobs):
        with statements() as found:
            await compared(client, *some)
        counts.append(len(found))
    assert counts == [8, 10]  # keys, jobs twice, daily values; a curve's names and points


@pytest.mark.usefixtures("dataset")
async def test_a_comparison_is_cached_until_a_job_changes(client: httpx.AsyncClient, sessions: Sessions) -> None:
    a = await job(client, sessions, "a", 1)
    b = (await submit(client, name="b", optimizer={"lr": 1e-3}))["id"]
    before = await compared(client, a, b)
    assert before == await compared(client, a, b)
    assert not before["fair"]
    end(sessions, b, 2)
    after = await compared(client, a, b)
    assert after["fair"]
    assert after["pairs"][0]["num_days"] == len(DAYS) - 1


async def test_invalid_comparisons_are_refused_with_the_reason(
    client: httpx.AsyncClient, sessions: Sessions, dataset: Dataset
) -> None:
    a, b = await job(client, sessions, "a", 1), await job(client, sessions, "b", 2)

    async def refused(parameter: str, **params: Any) -> str:
        body = problem(await client.get("/compare", params={"job": [a, b], **params}), 422, "invalid_request")
        assert [(error["parameter"], error["location"]) for error in body["errors"]] == [(parameter, "query")], body
        detail: str = body["detail"]
        return detail

    assert "rank_ic, ic and long_short can" in await refused("metric", metric="test/sharpe_ann@5d")
    assert "val/ and test/" in await refused("metric", metric="train/rank_ic")
    assert "they have [1, 5]" in await refused("metric", metric="test/rank_ic@7d")
    assert "two sides" in await refused("job", job=[a])
    assert "more than once" in await refused("job", job=[a, a])
    assert "more than once" in await refused("baseline", baseline=["ridge", "ridge"])
    assert "they have ['ridge']" in await refused("baseline", baseline="lightgbm")
    assert "no daily values of val/long_short" in await refused("baseline", baseline="ridge", metric="val/long_short")
    assert "50" in await refused("job", job=[str(uuid4()) for _ in range(51)])
    assert "of kind dataset" in await refused("job", job=[a, str(dataset.job_id)])
    problem(await client.get("/compare"), 422, "invalid_request")
    problem(await client.get("/compare", params={"job": [a, "x"]}), 422, "invalid_request")
    problem(await client.get("/compare", params={"job": [a, str(uuid4())]}), 404, "job_not_found")


@pytest.mark.usefixtures("dataset")
async def test_fifty_jobs_are_compared(client: httpx.AsyncClient, sessions: Sessions) -> None:
    spec = (await submit(client))["spec"]
    ids = []
    for number in range(50):
        lr = 1e-4 * (number + 1)
        with transaction(sessions) as session:
            made = submission.submit(
                session,
                submission.NewJob(
                    kind=JobKind.TRAIN,
                    spec=spec | {"optimizer": spec["optimizer"] | {"lr": lr}},
                    spec_digest="d",
                    queue="cpu",
                    dataset="small",
                    dataset_fingerprint="fp1",
                ),
            )
        ids.append(str(made.job.id))
        end(sessions, ids[-1], number)
    body = await compared(client, *ids, metric="test/rank_ic@1d")
    assert body["fair"]
    assert [pair["a"] for pair in body["pairs"]] == [ids[0]] * 49
    assert len(body["model_confidence_set"]) > 40


async def test_the_compare_page_is_served(client: httpx.AsyncClient) -> None:
    page = await client.get("/ui/compare")
    assert page.status_code == 200
    assert "/static/compare.js" in page.text
    assert (await client.get("/static/compare.js")).status_code == 200
