"""The split of a job before, during and after its run, and in its plan."""

from uuid import UUID

import httpx
import pytest

from atft.events import Evidence
from jobs.db.session import transaction
from jobs.record import history, lifecycle
from jobs.settings import Settings
from tests.integration.api.application import DAYS, SPEC, Sessions, problem, submit, write_days

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("dataset")]
KFOLD = {"kind": "purged_kfold", "folds": 3, "val_days": 20, "embargo_days": 10}


async def test_a_plan_counts_and_shows_every_fold(
    client: httpx.AsyncClient, settings: Settings, sessions: Sessions
) -> None:
    body = SPEC | {"split": KFOLD}
    blind = (await client.post("/jobs/train?dry_run=true", json=body)).json()
    assert (blind["num_folds"], blind["folds"]) == (3, None)
    write_days(settings, sessions)
    plan = (await client.post("/jobs/train?dry_run=true", json=body)).json()
    assert [fold["test"][0]["num_days"] for fold in plan["folds"]] == [62, 62, 61]
    assert plan["folds"][0]["test"][0]["first"] == str(DAYS[9])
    assert plan["num_train_days"] == max(sum(part["num_days"] for part in fold["train"]) for fold in plan["folds"])
    assert (
        plan["estimated_bytes"] > (await client.post("/jobs/train?dry_run=true", json=SPEC)).json()["estimated_bytes"]
    )
    many = SPEC | {"split": KFOLD | {"val_days": 150}}
    problem(await client.post("/jobs/train", json=many), 422, "invalid_request", "/split/folds")


async def test_the_split_of_a_job_is_planned_until_it_has_evidence(
    client: httpx.AsyncClient, settings: Settings, sessions: Sessions
) -> None:
    job = await submit(client, split=KFOLD)
    url = f"/jobs/{job['id']}/split"
    problem(await client.get(url), 409, "dataset_files_gone")
    path = write_days(settings, sessions)
    whole = path.read_bytes()
    path.write_bytes(whole[:-700] + bytes([whole[-700] ^ 1]) + whole[-699:])
    altered = problem(await client.get(url), 409, "dataset_files_gone")
    assert "dataset small are unknown, as its files are missing or altered" in altered["detail"]
    path.write_bytes(whole)
    queued = (await client.get(url)).json()
    assert (queued["kind"], queued["embargo_days"], queued["source"], len(queued["folds"])) == (
        "purged_kfold",
        10,
        "plan",
        3,
    )
    assert len(queued["figure"]["data"]) == 4
    ran = queued["folds"][:1]
    with transaction(sessions) as session:
        claimed = lifecycle.claim(session, UUID(job["id"]), worker="w", host="h", device="cpu", lease_seconds=60)
        assert claimed is not None
        events = [Evidence(child_seq=1, body={"data": {"folds": ran}})]
        history.append(session, claimed.id, claimed.attempt, events)
    running = (await client.get(url)).json()
    assert (running["source"], running["folds"]) == ("evidence", ran)


async def test_a_study_has_the_split_of_its_trials_and_a_dataset_has_none(
    client: httpx.AsyncClient, settings: Settings, sessions: Sessions
) -> None:
    write_days(settings, sessions)
    body = {
        "base": SPEC | {"split": KFOLD},
        "n_trials": 2,
        "space": {"optimizer.lr": {"kind": "float", "low": 1e-5, "high": 1e-3, "log": True}},
    }
    study = (await client.post("/jobs/hpo", json=body)).json()
    assert any("the pruner median will cut none short" in line for line in study["warnings"])
    assert len((await client.get(f"/jobs/{study['id']}/split")).json()["folds"]) == 3
    built = (await client.get("/jobs?kind=dataset")).json()["items"][0]
    problem(await client.get(f"/jobs/{built['id']}/split"), 404, "no_split")
