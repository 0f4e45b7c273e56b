"""Studies over HTTP: rejected specs, the plan, the rows of trials, and promoting the best."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from api.studies import service as studies
from jobs.db.session import transaction
from jobs.db.tables import Dataset
from jobs.record import lifecycle, queries
from jobs.settings import Settings
from jobs.states import JobState, Wanted
from tests.integration.api.application import SPEC, Sessions, problem
from tests.integration.worker.study_harness import StudyHarness, open_harness

pytestmark = pytest.mark.anyio
SPACE = {
    "optimizer.lr": {"kind": "float", "low": 1e-5, "high": 1e-3, "log": True},
    "model.gat_layers": {"kind": "int", "low": 1, "high": 3},
}
BATCHES = SPACE | {"trainer.batch_size": {"kind": "categorical", "choices": [40, 45, 80]}}  # of 20 stocks a day
STUDY: dict[str, Any] = {"base": SPEC, "space": SPACE, "sampler": {"name": "random"}, "n_trials": 4, "parallelism": 2}


async def submit(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    response = await client.post("/jobs/hpo", json=STUDY | changes)
    assert response.status_code == 202, response.text
    body: dict[str, Any] = response.json()
    return body


def run_study(settings: Settings, sessions: Sessions, study: str) -> StudyHarness:
    with open_harness(settings, sessions) as harness:
        harness.run_study(UUID(study))
    return harness


async def test_a_study_is_queued_on_the_control_queue(client: httpx.AsyncClient, dataset: Dataset) -> None:
    response = await client.post("/jobs/hpo", json=STUDY)
    body = response.json()
    assert response.headers["location"] == f"/jobs/{body['id']}"
    assert (body["kind"], body["state"], body["queue"], body["dataset"]) == ("hpo", "queued", "control", "small")
    assert body["warnings"] == [
        "no live worker watches queue cpu: the job waits until one starts",
        "no live worker watches queue control: the job waits until one starts",
    ]
    assert body["spec"]["space"]["model.gat_layers"] == {"kind": "int", "low": 1, "high": 3, "log": False, "step": 1}
    assert (await client.get(f"/jobs/{body['id']}/trials")).json() == {"items": []}
    problem(await client.get(f"/jobs/{body['id']}/best"), 404, "no_best_trial")
    problem(await client.get(f"/jobs/{body['id']}/importance"), 404, "no_importance")


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"space": {"optimizer.lrr": SPACE["optimizer.lr"]}}, "invalid_request", "/space/optimizer.lrr"),
        ({"space": {"seed": {"kind": "int", "low": 1, "high": 1}}}, "invalid_request", "/space/seed"),
        (
            {"space": {"graph.neighbours": {"kind": "int", "low": 1, "high": 9}}, "base": {"use_gat": False}},
            "invalid_request",
            "/space/graph.neighbours",
        ),
        (
            {"space": {"trainer.batch_size": {"kind": "int", "low": 35, "high": 45}}},
            "inert_parameter",
            "/space/trainer.batch_size",
        ),
        (
            {"space": {"trainer.batch_size": {"kind": "categorical", "choices": [38, 40, 45]}}},
            "inert_parameter",
            "/space/trainer.batch_size",
        ),
        ({"space": {"data.window": {"kind": "int", "low": 10, "high": 250}}}, "invalid_request", "/space/data.window"),
        (
            {"space": {"model.fan_top_k": {"kind": "int", "low": 1, "high": 50}}},
            "invalid_request",
            "/space/model.fan_top_k",
        ),
        (
            {
                "space": {
                    "model.hidden_size": {"kind": "categorical", "choices": [8, 20]},
                    "model.attention_heads": {"kind": "categorical", "choices": [2, 8]},
                }
            },
            "invalid_space",
            "/space",
        ),
        ({"space": {"dataset": {"kind": "categorical", "choices": ["a", "b"]}}}, "invalid_request", "/space/dataset"),
        ({"objective": {"metric": "test/rank_ic"}}, "invalid_request", "/objective/metric"),
        ({"objective": {"metric": "val/no_such"}}, "invalid_request", "/objective/metric"),
        ({"objective": {"metric": "val/rank_ic@7d"}}, "invalid_request", "/objective/metric"),
        ({"objective": {"metric": "val/loss"}}, "invalid_request", "/objective/direction"),
        ({"enqueue": [{"model.gat_layers": 7}]}, "invalid_request", "/enqueue/0/model.gat_layers"),
        ({"enqueue": [{}] * 5}, "invalid_request", "/enqueue"),
        ({"sampler": {"name": "grid"}}, "invalid_request", "/sampler/name"),
        ({"base": {"dataset": "nothing"}}, "unknown_dataset", "/base/dataset"),
        ({"base": {"data": {"window": 300, "horizons": [1], "min_names": 5}}}, "invalid_request", "/base/data/window"),
        ({"trials": 3}, "invalid_request", "/trials"),
    ],
)
async def test_pain_37_invalid_studies_are_refused_with_pointers(
    client: httpx.AsyncClient, dataset: Dataset, change: dict[str, Any], code: str, pointer: str
) -> None:
    if change.get("base") == {"use_gat": False}:
        change = change | {"base": {"model": SPEC["model"] | {"use_gat": False}}}
    if "base" in change:
        change = change | {"base": SPEC | change["base"]}
    problem(await client.post("/jobs/hpo", json=STUDY | change), 422, code, pointer)
    assert (await client.get("/jobs?kind=hpo")).json()["items"] == []


async def test_pain_37_equal_batch_sizes_are_merged_with_a_warning(client: httpx.AsyncClient, dataset: Dataset) -> None:
    points = [{"trainer.batch_size": 45}, {"trainer.batch_size": 80}]
    body = await submit(client, space=BATCHES, enqueue=points)
    assert body["spec"]["space"]["trainer.batch_size"]["choices"] == [40, 80]
    assert body["spec"]["enqueue"] == [{"trainer.batch_size": 40}, {"trainer.batch_size": 80}]
    assert "trainer.batch_size: 45 resolves to the same run as 40: merged" in body["warnings"]


async def test_a_plan_stores_nothing(client: httpx.AsyncClient, dataset: Dataset) -> None:
    response = await client.post("/jobs/hpo?dry_run=true", json=STUDY | {"space": BATCHES})
    assert response.status_code == 200
    plan = response.json()
    assert (plan["num_trials"], plan["estimated_seconds"]) == (4, None)
    assert plan["low"] == {"optimizer.lr": 1e-5, "model.gat_layers": 1, "trainer.batch_size": 40}
    assert plan["high"] == {"optimizer.lr": 1e-3, "model.gat_layers": 3, "trainer.batch_size": 80}
    assert plan["trial"]["num_parameters"] > 100
    assert plan["trial"]["spec"]["baselines"] is False
    assert any("merged" in line for line in plan["warnings"])
    assert (await client.get("/jobs?kind=hpo")).json()["items"] == []


async def test_one_key_and_one_body_are_one_study(client: httpx.AsyncClient, dataset: Dataset) -> None:
    headers = {"Idempotency-Key": "s1"}
    first, again = [(await client.post("/jobs/hpo", json=STUDY, headers=headers)).json() for _ in range(2)]
    assert first["id"] == again["id"]
    problem(await client.post("/jobs/hpo", json=STUDY | {"n_trials": 5}, headers=headers), 422, "idempotency_mismatch")


async def test_trials_best_and_importance(
    client: httpx.AsyncClient, dataset: Dataset, settings: Settings, sessions: Sessions
) -> None:
    study = (await submit(client))["id"]
    run_study(settings, sessions, study)
    job = (await client.get(f"/jobs/{study}")).json()
    assert (job["state"], job["progress"]["ratio"]) == ("succeeded", 1.0)
    trials = (await client.get(f"/jobs/{study}/trials")).json()["items"]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    for trial in trials:
        assert (trial["state"], set(trial["params"])) == ("succeeded", set(SPACE))
        assert trial["intermediate"] == {"1": trial["value"] / 2, "2": trial["value"]}
        assert trial["created_at"] <= trial["started_at"] <= trial["finished_at"]
    top = max(trials, key=lambda trial: trial["value"])
    best = (await client.get(f"/jobs/{study}/best")).json()
    assert (best["number"], best["job_id"], best["value"]) == (top["number"], top["job_id"], top["value"])
    assert best["spec"]["optimizer"]["lr"] == top["params"]["optimizer.lr"]
    assert best["epoch"] == 2
    importance = (await client.get(f"/jobs/{study}/importance")).json()
    assert set(importance["importance"]) == set(SPACE)
    children = (await client.get(f"/jobs?parent_id={study}")).json()["items"]
    assert sorted(child["kind"] for child in children) == ["preflight"] + ["trial"] * 4


async def test_promote_trains_the_best_in_full(
    client: httpx.AsyncClient, dataset: Dataset, settings: Settings, sessions: Sessions
) -> None:
    rule = {"metric": "val/rank_ic", "at_epoch": 2, "below": -1.0}
    study = (await submit(client, stop_rules=[rule]))["id"]
    problem(await client.post(f"/jobs/{study}/promote", json={"as": "train"}), 404, "no_best_trial")
    run_study(settings, sessions, study)
    best = (await client.get(f"/jobs/{study}/best")).json()
    changes = {"as": "train", "optimizer.name": "adabelief", "trainer": {"max_epochs": 3}, "tags": {"a": "b"}}
    response = await client.post(f"/jobs/{study}/promote", json=changes)
    assert response.status_code == 202, response.text
    job = response.json()
    assert (job["kind"], job["source_job_id"], job["parent_id"]) == ("train", best["job_id"], None)
    assert (job["name"], job["tags"], job["spec"]["baselines"]) == ("best of first", {"a": "b"}, True)
    assert best["spec"]["trainer"]["stop_rules"] != []
    assert job["spec"]["trainer"] == best["spec"]["trainer"] | {"max_epochs": 3, "stop_rules": []}
    assert job["spec"]["optimizer"] == best["spec"]["optimizer"] | {"name": "adabelief"}
    assert job["spec"]["model"] == best["spec"]["model"]
    plain = (await client.post(f"/jobs/{best['job_id']}/promote", json={"as": "train"})).json()
    assert plain["spec"]["optimizer"]["lr"] == best["params"]["optimizer.lr"]
    url = f"/jobs/{study}/promote"
    keyed = {"headers": {"Idempotency-Key": "k"}}
    once = (await client.post(url, json=changes, **keyed)).json()
    with transaction(sessions) as session:  # another trial is the best one now
        found = queries.get(session, UUID(study))
        other = next(
            trial for trial in studies.list_trials(session, UUID(study)) if str(trial.job_id) != best["job_id"]
        )
        found.best = {**(found.best or {}), "job_id": str(other.job_id)}
    assert (await client.post(url, json=changes, **keyed)).json()["id"] == once["id"]
    different = changes | {"trainer": {"max_epochs": 4}}
    problem(await client.post(url, json=different, **keyed), 422, "idempotency_mismatch")
    problem(await client.post(url, json={"as": "alias", "alias": "champion"}), 422, "invalid_request", "/as")
    problem(
        await client.post(url, json={"as": "train", "trainer.epochs": 3}), 422, "invalid_request", "/trainer.epochs"
    )
    problem(
        await client.post(url, json={"as": "train", "trainer.max_epochs": 0}),
        422,
        "invalid_request",
        "/trainer/max_epochs",
    )
    problem(await client.post(url, json={}), 422, "invalid_request", "/as")


async def test_only_a_study_has_trials(client: httpx.AsyncClient, dataset: Dataset) -> None:
    job = (await client.post("/jobs/train", json=SPEC)).json()["id"]
    for part in ("trials", "best", "importance"):
        problem(await client.get(f"/jobs/{job}/{part}"), 404, "not_a_study")


async def test_cancel_of_a_running_study_is_requested(
    client: httpx.AsyncClient, dataset: Dataset, settings: Settings, sessions: Sessions
) -> None:
    study = (await submit(client))["id"]
    with open_harness(settings, sessions) as harness:
        harness.run_preflight(UUID(study))
        body = (await client.post(f"/jobs/{study}/cancel")).json()
        assert (body["state"], body["status"]) == ("running", "cancelling")
        harness.advance(UUID(study))
    assert (await client.get(f"/jobs/{study}")).json()["state"] == "cancelled"
    problem(await client.post(f"/jobs/{study}/promote", json={"as": "train"}), 404, "no_best_trial")


async def test_priority(client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions) -> None:
    jobs = [(await client.post("/jobs/train", json=SPEC)).json()["id"] for _ in range(2)]
    response = await client.post(f"/jobs/{jobs[1]}/priority", json={"priority": 0})
    assert (response.status_code, response.json()["priority"], response.json()["queue_position"]) == (202, 0, 0)
    assert (await client.get(f"/jobs/{jobs[0]}")).json()["queue_position"] == 1
    problem(await client.post(f"/jobs/{jobs[1]}/priority", json={"priority": 10}), 422, "invalid_request", "/priority")
    stale = {"If-Match": '"0"'}
    problem(
        await client.post(f"/jobs/{jobs[1]}/priority", json={"priority": 1}, headers=stale), 412, "precondition_failed"
    )
    with transaction(sessions) as session:
        assert lifecycle.want(session, UUID(jobs[0]), Wanted.CANCEL, by="test").state is JobState.CANCELLED
    problem(await client.post(f"/jobs/{jobs[0]}/priority", json={"priority": 1}), 409, "illegal_move")
