"""Seed ensembles through the API: plan, submit, rejected specs, and the stored job."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from jobs.broker.queue import CONTROL
from jobs.db.tables import Dataset
from tests.integration.api.application import SPEC, Sessions, run

pytestmark = pytest.mark.anyio
ENSEMBLE: dict[str, Any] = {"base": SPEC, "seeds": [4, 5, 6]}


async def test_an_ensemble_is_planned_submitted_and_rerun(
    client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions
) -> None:
    alone = (await client.post("/jobs/train?dry_run=true", json=SPEC)).json()
    planned = (await client.post("/jobs/ensemble?dry_run=true", json=ENSEMBLE)).json()
    assert (alone["num_members"], planned["num_members"], planned["num_folds"]) == (1, 3, 1)
    assert planned["spec"]["seeds"] == [4, 5, 6]
    assert planned["estimated_bytes"] == alone["estimated_bytes"] + 2 * 4 * alone["num_parameters"]
    response = await client.post("/jobs/ensemble", json=ENSEMBLE)
    assert response.status_code == 202, response.text
    body = response.json()
    assert (body["kind"], body["name"], body["tags"]) == ("ensemble", SPEC["name"], SPEC["tags"])
    assert body["queue"] != CONTROL
    assert (await client.get(f"/jobs/{body['id']}/split")).status_code in (200, 409)
    run(sessions, UUID(body["id"]))  # claimed, as any training is
    both = await client.get("/compare", params={"job": [body["id"], await trained(client, sessions, seed=5)]})
    assert both.status_code == 200, both.text
    assert both.json()["differences"] == {"members": [3, None], "seed": [[4, 5, 6], 5]}
    again = await client.post(f"/jobs/{body['id']}/rerun")
    assert again.status_code == 202, again.text
    assert again.json()["spec"] == planned["spec"]
    shown = (await client.get(f"/jobs/{body['id']}")).json()
    assert shown["best"]["objective"] == "val/rank_ic"


async def trained(client: httpx.AsyncClient, sessions: Sessions, **changes: Any) -> str:
    job_id: str = (await client.post("/jobs/train", json=SPEC | changes)).json()["id"]
    run(sessions, UUID(job_id))
    return job_id


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"seeds": [1]}, "/seeds"),
        ({"seeds": [1, 1]}, "/seeds"),
        ({"seeds": [1, 2, -1]}, "/seeds/2"),
        ({"base": SPEC | {"seed": 3}}, "/base/seed"),
        (
            {"base": SPEC | {"split": {"folds": 2, "val_days": 20, "test_days": 20, "embargo_days": 6}}},
            "/base/split/folds",
        ),
        ({"base": SPEC | {"dataset": "nowhere"}}, "/base/dataset"),
        ({"base": SPEC | {"data": {"window": 10, "horizons": [2]}}}, "/base/data/horizons"),
    ],
)
async def test_an_invalid_ensemble_is_refused_with_the_pointer_of_its_field(
    client: httpx.AsyncClient, dataset: Dataset, change: dict[str, Any], pointer: str
) -> None:
    response = await client.post("/jobs/ensemble", json=ENSEMBLE | change)
    assert response.status_code == 422, response.text
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
