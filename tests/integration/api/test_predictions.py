"""Predictions over HTTP: rejected models and datasets, the plan, and the stored job."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import update

from atft.events import Evidence
from jobs.db.session import transaction
from jobs.db.tables import ArtifactRow, Dataset, Job
from jobs.record import catalog, history, lifecycle, queries, submission
from jobs.settings import Settings
from jobs.states import JobKind, JobState
from tests.integration.api.application import DAYS, SPEC, Sessions, problem, submit, write_days
from worker.attempt.inputs import Inputs

pytestmark = pytest.mark.anyio
FEATURES = ["f1", "f2", "f3", "vix"]


def days(first: int, stop: int) -> list[str]:
    return [day.isoformat() for day in DAYS[first:stop]]


@pytest.fixture
def calendar(dataset: Dataset, settings: Settings, sessions: Sessions) -> None:
    write_days(settings, sessions)


def trained(sessions: Sessions, job: dict[str, Any], names: tuple[str, ...] = ("best.safetensors",)) -> str:
    """Run the job: it has evidence and weights afterwards."""
    split = {"train_days": days(9, 122), "val_days": days(128, 158), "test_days": days(164, 194), "purged_days": []}
    folds = [{role: [] for role in ("train", "val", "test", "purged")} for _ in names]
    for number, fold in enumerate(folds):
        fold["train"] = [{"first": DAYS[9].isoformat(), "last": DAYS[100 + number].isoformat(), "num_days": 90}]  # type: ignore[list-item]
    ensemble = job["kind"] == "ensemble"
    data = {"features_sha256": "ff", **split} | ({"folds": folds} if len(names) > 1 and not ensemble else {})
    resolved: dict[str, Any] = {"data": {"features": FEATURES}}
    evidence = {"resolved": {"base": resolved} if ensemble else resolved, "data": data, "threads": {"limit": 1}}
    identity = UUID(job["id"])
    with transaction(sessions) as session:
        claimed = lifecycle.claim(session, identity, worker="w", host="h", device="cpu", lease_seconds=60)
        assert claimed is not None
        history.append(session, identity, 1, [Evidence(child_seq=1, body=evidence)])
        for name in names:
            catalog.add_artifact(
                session, identity, 1, name=name, path=f"jobs/{identity}/1/{name}", size_bytes=1,
                sha256=f"sha of {name}", media_type="x",
            )  # fmt: skip
        lifecycle.settle(session, identity, 1, JobState.SUCCEEDED)
    return str(identity)


def prediction(model: str, first: int = 164, last: int = 193, **changes: Any) -> dict[str, Any]:
    body = {"model": model, "dataset": "small", "from_day": DAYS[first].isoformat(), "to_day": DAYS[last].isoformat()}
    return body | changes


@pytest.mark.usefixtures("dataset", "calendar")
async def test_a_prediction_is_a_job_made_from_its_model(client: httpx.AsyncClient, sessions: Sessions) -> None:
    model = trained(sessions, await submit(client))
    response = await client.post("/jobs/predict", json=prediction(model), headers={"Idempotency-Key": "k"})
    assert response.status_code == 202, response.text
    job = response.json()
    assert (job["kind"], job["source_job_id"], job["dataset"], job["queue"]) == ("predict", model, "small", "cpu")
    assert job["warnings"] == ["no live worker watches queue cpu: the job waits until one starts"]
    with transaction(sessions) as session:
        params = queries.get(session, UUID(job["id"])).params
    digest = (await client.get(f"/jobs/{model}")).json()["spec_digest"]
    weights = {"weights": "best.safetensors", "sha256": "sha of best.safetensors", "spec_digest": digest}
    assert params == {"model": {"folder": f"jobs/{model}/1", "features_sha256": "ff", **weights}}
    again = await client.post("/jobs/predict", json=prediction(model), headers={"Idempotency-Key": "k"})
    assert again.json()["id"] == job["id"]
    problem(await client.post(f"/jobs/{job['id']}/rerun"), 409, "illegal_move")
    problem(await client.get("/compare", params={"job": [model, job["id"]]}), 422, "invalid_request")
    problem(await client.get(f"/jobs/{job['id']}/split"), 404, "no_split")
    problem(await client.post(f"/jobs/{job['id']}/retry"), 409, "illegal_move")
    assert (await client.post(f"/jobs/{job['id']}/cancel")).json()["actions"] == ["retry"]
    retry = (await client.post(f"/jobs/{job['id']}/retry")).json()
    assert (retry["kind"], retry["source_job_id"], retry["spec"]) == ("predict", job["id"], job["spec"])
    with transaction(sessions) as session:
        assert queries.get(session, UUID(retry["id"])).params == params


@pytest.mark.usefixtures("dataset", "calendar")
async def test_a_plan_warns_of_days_that_are_in_sample_or_without_a_whole_window(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    model = trained(sessions, await submit(client))

    async def planned(first: int, last: int, **changes: Any) -> dict[str, Any]:
        response = await client.post(
            "/jobs/predict", params={"dry_run": True}, json=prediction(model, first, last, **changes)
        )
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    plan = await planned(164, 193)
    assert (plan["num_days"], plan["first_day"], plan["estimated_rows"]) == (30, DAYS[164].isoformat(), 600)
    assert len(plan["warnings"]) == 1  # no worker
    early = await planned(0, 199, resources={"threads": 2})
    assert [line for line in early["warnings"] if "the first 9 of the days" in line]
    assert [
        line for line in early["warnings"] if "the first 164 of the days" in line
    ]  # 158 + the 5 + 1 days of a label
    assert [line for line in early["warnings"] if "with 1 threads" in line]
    assert len((await planned(163, 163))["warnings"]) == 2
    assert (await client.get("/jobs", params={"kind": "predict"})).json()["items"] == []


@pytest.mark.usefixtures("dataset", "calendar")
async def test_models_that_cannot_predict(client: httpx.AsyncClient, sessions: Sessions) -> None:
    nobody = "019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21"
    for ref in ("champion", nobody):
        problem(await client.post("/jobs/predict", json=prediction(ref)), 422, "unknown_model", "/model")
    waiting = (await submit(client))["id"]
    problem(await client.post("/jobs/predict", json=prediction(waiting)), 422, "no_model", "/model")
    bare = trained(sessions, await submit(client), ())
    refused = problem(await client.post("/jobs/predict", json=prediction(bare)), 422, "no_model", "/model")
    assert "not kept any more" in refused["detail"]
    builder = (await client.get("/jobs", params={"kind": "dataset"})).json()["items"][0]["id"]
    problem(await client.post("/jobs/predict", json=prediction(builder)), 422, "no_model", "/model")


@pytest.mark.usefixtures("dataset", "calendar")
async def test_a_model_of_several_folds_requires_a_fold(client: httpx.AsyncClient, sessions: Sessions) -> None:
    split = {"val_days": 20, "test_days": 20, "embargo_days": 6, "folds": 2}
    names = ("best.1.safetensors", "best.2.safetensors")
    model = trained(sessions, await submit(client, split=split), names)
    for fold, message in ((None, "say which, 1 to 2"), (3, "there is no fold 3")):
        refused = problem(
            await client.post("/jobs/predict", json=prediction(model, fold=fold)), 422, "invalid_request", "/fold"
        )
        assert message in refused["detail"]
    plan = await client.post("/jobs/predict", params={"dry_run": True}, json=prediction(model, 0, 199, fold=2))
    assert plan.json()["weights"] == "best.2.safetensors"
    assert any("the first 108 of the days" in line for line in plan.json()["warnings"])  # 101 + 1 + 5 + 1


@pytest.mark.usefixtures("dataset", "calendar")
async def test_an_ensemble_predicts_by_all_members_and_a_training_begins_with_one(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    def inputs(job_id: str) -> tuple[set[str], Mapping[str, str] | None]:
        """Names of the artifacts that the worker verifies, and the digests of the initial weights."""
        with transaction(sessions) as session:
            found = Inputs.of(session, queries.get(session, UUID(job_id)))
            return {row.name for row in found.rows if isinstance(row, ArtifactRow)}, (
                found.weights and found.weights.sha256
            )

    names = ("best.1.safetensors", "best.2.safetensors")
    submitted = (await client.post("/jobs/ensemble", json={"base": SPEC, "seeds": [4, 5]})).json()
    request = prediction(submitted["id"])
    early = problem(await client.post("/jobs/predict", json=request), 422, "no_model", "/model")
    assert "only a job that has succeeded" in early["detail"]
    ensemble = trained(sessions, submitted, names)
    digests = {name: f"sha of {name}" for name in names}
    plan = (await client.post("/jobs/predict?dry_run=true", json=request)).json()
    assert (plan["weights"], plan["weights_sha256"]) == (", ".join(digests), ", ".join(digests.values()))
    problem(await client.post("/jobs/predict", json=request | {"fold": 2}), 422, "invalid_request", "/fold")
    response = await client.post("/jobs/predict", json=request)
    assert response.status_code == 202, response.text
    assert inputs(response.json()["id"]) == ({*names}, None)

    async def begin(source: str) -> httpx.Response:
        return await client.post("/jobs/train", json=SPEC | {"init_from": source})

    first = await begin(f"{ensemble}#2")
    assert first.status_code == 202, first.text
    assert inputs(first.json()["id"]) == ({names[1]}, {names[1]: digests[names[1]]})
    alone = trained(sessions, first.json())
    assert (await begin(alone)).status_code == 202  # whose chain has a member
    for source, message in (
        (ensemble, f"each of its 2 members has weights: name one, {ensemble}#1 to #2"),
        (f"{ensemble}#3", "name one"),
        (f"{alone}#1", "is no ensemble"),
    ):
        refused = problem(await begin(source), 422, "invalid_request", "/init_from")
        assert message in refused["detail"]
    problem(await begin(f"{ensemble}#0"), 422, "invalid_request", "/init_from")


OTHERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "fewer": ({"feature_names": ["f1", "f2"]}, "other_features", "lacks ['f3']"),
    "more": ({"feature_names": ["f1", "f2", "f3", "f4"]}, "other_features", "has ['f4'] besides"),
    "turned": ({"feature_names": ["f2", "f1", "f3"]}, "other_features", "another order"),
    "moved": ({"feature_names": FEATURES, "market_names": []}, "other_features", "columns of the market"),
    "formula": ({"feature_formulas": {"f2": "open / close"}}, "other_features", "['f2']"),
    "scale": ({"normalisation": {"features": "none"}}, "other_features", "normalisation"),
    "horizons": ({"horizons": [1]}, "missing_horizons", "[5]"),
}


@pytest.mark.usefixtures("calendar")
async def test_an_incompatible_dataset_is_refused(
    client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions
) -> None:
    model = trained(sessions, await submit(client))
    for name, (manifest, code, message) in OTHERS.items():
        with transaction(sessions) as session:
            job = submission.submit(
                session, submission.NewJob(kind=JobKind.DATASET, spec={}, spec_digest="d", queue="cpu", dataset=name)
            ).job
            lifecycle.claim(session, job.id, worker="w", host="h", device="cpu", lease_seconds=60)
            catalog.register_dataset(
                session,
                job,
                catalog.NewDataset(
                    name=name,
                    fingerprint=name,
                    spec={},
                    manifest=dataset.manifest | manifest,
                    profile={},
                    leak_report={},
                    path=f"caches/{name}",
                    size_bytes=1,
                ),
            )
            lifecycle.settle(session, job.id, 1, JobState.SUCCEEDED)
        refused = problem(
            await client.post("/jobs/predict", json=prediction(model, dataset=name)), 422, code, "/dataset"
        )
        assert message in refused["detail"], name


@pytest.mark.usefixtures("dataset", "calendar")
async def test_invalid_predictions_are_refused_with_pointers(client: httpx.AsyncClient, sessions: Sessions) -> None:
    model = trained(sessions, await submit(client))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"to_day": "2019-12-31"}, "/to_day"),
        ({"from_day": "1999-01-01", "to_day": "1999-12-31"}, "/from_day"),
        ({"from_day": "yesterday"}, "/from_day"),
        ({"dataset": "nothing"}, "/dataset"),
        ({"fold": 0}, "/fold"),
        ({"fold": 2}, "/fold"),
        ({"days": 3}, "/days"),
    ]
    for changes, pointer in wrong:
        response = await client.post("/jobs/predict", json=prediction(model) | changes)
        assert response.status_code == 422, response.text
        assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
    with transaction(sessions) as session:
        session.execute(update(Job).where(Job.id == UUID(model)).values(spec={"dataset": "small", "alchemy": True}))
    refused = problem(await client.post("/jobs/predict", json=prediction(model)), 422, "no_model", "/model")
    assert "another version" in refused["detail"]
