"""Pretraining through the API: submit, plan, and which checkpoints a training accepts in `init_from`."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from jobs.db.session import transaction
from jobs.db.tables import Dataset
from jobs.errors import ArtifactNotFound
from jobs.record import catalog, init_from, lifecycle
from jobs.states import JobState
from tests.integration.api.application import SPEC, Sessions, problem, run

pytestmark = pytest.mark.anyio
SHA = "ab" * 32


async def submit(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    response = await client.post("/jobs/pretrain", json=SPEC | changes)
    assert response.status_code == 202, response.text
    body: dict[str, Any] = response.json()
    return body


def succeed(sessions: Sessions, job_id: str) -> None:
    """End the job as succeeded, with weights on record."""
    run(sessions, UUID(job_id), to=None)
    with transaction(sessions) as session:
        path = f"jobs/{job_id}/1/best.safetensors"
        catalog.add_artifact(
            session, UUID(job_id), 1, name="best.safetensors", path=path, size_bytes=1, sha256=SHA, media_type="x"
        )
        lifecycle.settle(session, UUID(job_id), 1, JobState.SUCCEEDED)


async def test_a_pretraining_is_planned_submitted_and_used_as_init_from(
    client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions
) -> None:
    planned = (await client.post("/jobs/pretrain?dry_run=true", json=SPEC)).json()
    assert planned["spec"]["mask_ratio"] == 0.15
    assert planned["spec"]["trainer"]["objective"] == "val/loss"
    trained = (await client.post("/jobs/train?dry_run=true", json=SPEC)).json()
    assert planned["num_parameters"] != trained["num_parameters"]
    body = await submit(client)
    assert (body["kind"], body["state"], body["dataset_fingerprint"]) == ("pretrain", "queued", "fp1")
    training = SPEC | {"init_from": body["id"]}
    early = problem(await client.post("/jobs/train", json=training), 422, "invalid_request", "/init_from")
    assert "queued" in early["detail"]
    succeed(sessions, body["id"])
    response = await client.post("/jobs/train", json=training)
    assert response.status_code == 202, response.text
    assert response.json()["spec"]["init_from"] == body["id"]
    assert (await client.post("/jobs/hpo?dry_run=true", json={"base": training, "space": LR})).status_code == 200
    wider = {"base": training, "space": {"model.hidden_size": {"kind": "categorical", "choices": [8, 16]}}}
    problem(await client.post("/jobs/hpo?dry_run=true", json=wider), 422, "invalid_request")
    with transaction(sessions) as session:
        found = init_from.weights(session, UUID(body["id"]), None)
        assert (str(found.folder), found.sha256) == (f"jobs/{body['id']}/1", {"best.safetensors": SHA})
        with pytest.raises(ArtifactNotFound):
            init_from.weights(session, UUID(response.json()["id"]), None)


LR = {"optimizer.lr": {"kind": "float", "low": 1e-4, "high": 1e-3, "log": True}}


async def test_unsuitable_init_from_is_refused(client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions) -> None:
    async def refused(source: str, **changes: Any) -> str:
        response = await client.post("/jobs/train", json=SPEC | {"init_from": source} | changes)
        return str(problem(response, 422, "invalid_request", "/init_from")["detail"])

    good = (await submit(client))["id"]
    succeed(sessions, good)
    assert "there is no job" in await refused("019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21")
    assert "String should match" in await refused("yesterday's")
    assert "of kind dataset" in await refused(str(dataset.job_id))
    assert "hidden_size was 8 and is 16" in await refused(good, model=SPEC["model"] | {"hidden_size": 16})
    assert "other features" in await refused(good, data=SPEC["data"] | {"features": ["f1", "vix"]})
    assert "validation day" in await refused(good, split=SPEC["split"] | {"val_days": 60})
    listed = (await submit(client, data=SPEC["data"] | {"features": ["vix", "f1", "f2", "f3"]}))["id"]
    succeed(sessions, listed)
    assert (await client.post("/jobs/train", json=SPEC | {"init_from": listed})).status_code == 202  # the same, listed
    bare = (await submit(client))["id"]
    run(sessions, UUID(bare))
    assert "has no weights" in await refused(bare)


async def test_the_weights_of_a_chain_of_init_from_are_found(
    client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions
) -> None:
    first = (await submit(client))["id"]
    succeed(sessions, first)
    second = (await client.post("/jobs/train", json=SPEC | {"init_from": first})).json()["id"]
    succeed(sessions, second)
    third = await client.post("/jobs/train", json=SPEC | {"init_from": second})
    assert third.status_code == 202, third.text
    with transaction(sessions) as session:
        assert [str(job.id) for job in init_from.chain(session, UUID(third.json()["id"]))][1:] == [
            second,
            first,
        ]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"contrast_weight": 0.1, "trainer": {"batch_size": 20}}, "/trainer/batch_size"),
        ({"task": "something"}, "/task"),
        ({"loss": {}}, "/loss"),
        ({"trainer": {"objective": "val/rank_ic"}}, "/trainer/objective"),
    ],
)
async def test_an_invalid_pretraining_is_refused(
    client: httpx.AsyncClient, dataset: Dataset, change: dict[str, Any], pointer: str
) -> None:
    problem(await client.post("/jobs/pretrain", json=SPEC | change), 422, "invalid_request", pointer)
