"""A database and a run root written by an earlier commit are still readable: equal HTTP responses and files, and the
weights and checkpoints load. `tests/fixtures/dumps/README.md` describes how they were made.

The expected responses were recorded with the code of that commit. Each of their values must be present and equal; a
response may have further fields.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import psycopg
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from jobs.settings import Settings
from tests.integration.api.application import serving

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
DUMP = ROOT / "tests" / "fixtures" / "dumps" / "0003-74347c2.zip"
EXPECTED: dict[str, Any] = json.loads(DUMP.with_suffix(".json").read_text())
JOBS: dict[str, str] = EXPECTED["jobs"]
ADMIN = "operator"  # the dump has a key, so that requests without one are refused
ROUNDING = 1e-5  # another processor adds in another order


@dataclass(frozen=True)
class Stored:
    """Settings of the restored database, and of a copy of it for tests that write."""

    settings: Settings
    copy: Settings

    def folder(self, job: str) -> Path:
        """What the only attempt of a job left."""
        return self.settings.run_root / "jobs" / JOBS[job] / "1"

    @property
    def cache(self) -> Path:
        fingerprint = EXPECTED["answers"]["/datasets/small"]["fingerprint"]
        return self.settings.run_root / "caches" / str(fingerprint)


def program(*arguments: str, **variables: str) -> str:
    """The standard output of `python -m …`, which must succeed."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def stored(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    names = [f"stored_{uuid4().hex[:12]}" for _ in range(2)]
    urls = [f"{servers.database_url.rpartition('/')[0]}/{name}" for name in names]
    folder = tmp_path_factory.mktemp("stored")
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{names[0]}"')
        program(
            "jobs.admin", "restore", str(DUMP),
            ATFT_DATABASE_URL=urls[0], ATFT_REDIS_URL=servers.redis_url, ATFT_RUN_ROOT=str(folder / "runs"),
        )  # fmt: skip
        admin.execute(f'CREATE DATABASE "{names[1]}" TEMPLATE "{names[0]}"')
        made = [
            Settings(
                database_url=url, redis_url=servers.redis_url, data_root=folder, run_root=folder / "runs",
                admin_key=SecretStr(ADMIN),
            )
            for url in urls
        ]  # fmt: skip
        yield Stored(*made)
        for name in names:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def http(stored: Stored) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(stored.settings, Authorization=f"Bearer {ADMIN}") as client:
        yield client


@pytest.fixture
async def writing(stored: Stored) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(stored.copy, Authorization=f"Bearer {ADMIN}") as client:
        yield client


def changed(expected: Any, found: Any, path: str) -> Iterator[str]:
    """The path of each value of `expected` that is missing from `found` or differs."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            if key not in found:
                yield f"{path}.{key} is missing, was {value!r:.200}"
            else:
                yield from changed(value, found[key], f"{path}.{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from changed(one, other, f"{path}[{number}]")
    elif type(expected) is not type(found) or expected != found:
        yield f"{path} was {expected!r:.200}, is {found!r:.200}"


def digest(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


async def test_every_response_equals_that_of_the_earlier_code(http: httpx.AsyncClient) -> None:
    found: list[str] = []
    for path, expected in EXPECTED["answers"].items():
        response = await http.get(path)
        assert response.status_code == 200, (path, response.text)
        body = response.json()
        found += changed(expected, body, path)
        for part, digests in EXPECTED["metrics"].get(path, {}).items():
            found += changed(digests, {name: digest(value) for name, value in body[part].items()}, f"{path} {part}")
    assert found == []
    jobs = (await http.get("/jobs", params={"limit": 200})).json()["items"]
    assert [job["id"] for job in jobs] == EXPECTED["listed"]
    assert {job["state"] for job in jobs} == {"succeeded", "failed", "cancelled"}


async def test_every_stream_has_the_stored_events(http: httpx.AsyncClient) -> None:
    for job, expected in EXPECTED["events"].items():
        lines = (await http.get(f"/jobs/{job}/events")).text.splitlines()
        kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        assert {kind: kinds.count(kind) for kind in kinds} == expected, job


async def test_every_artifact_has_its_recorded_hash(http: httpx.AsyncClient) -> None:
    count = 0
    for job in JOBS.values():
        for item in (await http.get(f"/jobs/{job}/artifacts")).json()["items"]:
            content = (await http.get(item["link"])).content
            assert (len(content), hashlib.sha256(content).hexdigest()) == (item["size_bytes"], item["sha256"]), item
            count += 1
    assert count == sum(len(EXPECTED["answers"][f"/jobs/{job}/artifacts"]["items"]) for job in JOBS.values())


async def test_stored_jobs_can_be_rerun_and_predicted_with(writing: httpx.AsyncClient) -> None:
    """Their specs are still valid: a rerun, a retry, a promotion and a training that begins with stored weights."""
    train = EXPECTED["answers"][f"/jobs/{JOBS['train']}"]
    for path, body in (
        (f"/jobs/{JOBS['train']}/rerun", None),
        (f"/jobs/{JOBS['dataset']}/rerun", None),
        (f"/jobs/{JOBS['cancelled']}/retry", None),
        (f"/jobs/{JOBS['study']}/promote", {"as": "train"}),
        ("/jobs/train", train["spec"] | {"init_from": JOBS["pretrain"]}),
    ):
        response = await writing.post(path, json=body)
        assert response.status_code == 202, (path, response.text)
        if path.startswith(f"/jobs/{JOBS['train']}"):
            assert response.json()["spec_digest"] == train["spec_digest"]
    refused = await writing.post(f"/jobs/{JOBS['failed']}/retry")  # its timeout would end it again
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_move")


async def test_the_files_of_the_cache_have_their_recorded_hashes(stored: Stored) -> None:
    manifest = json.loads(program("atft", "inspect", str(stored.cache)))
    assert manifest["fingerprint"] == stored.cache.name
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((stored.cache / name).read_bytes()).hexdigest() == entry["sha256"], name


async def test_stored_weights_give_the_stored_scores(
    stored: Stored, writing: httpx.AsyncClient, tmp_path: Path
) -> None:
    before = sorted(path.name for path in stored.cache.rglob("*"))
    spec = EXPECTED["answers"][f"/jobs/{JOBS['predict']}"]["spec"]
    response = await writing.post("/jobs/predict", json=spec)
    assert response.status_code == 202, response.text
    (tmp_path / "spec.json").write_text(json.dumps(response.json()["spec"]))
    weights = hashlib.sha256((stored.folder("train") / "best.safetensors").read_bytes()).hexdigest()
    program(
        "atft", "predict", str(tmp_path / "spec.json"), "--model", str(stored.folder("train")),
        "--weights-sha256", weights, "--cache", str(stored.cache), "--out", str(tmp_path),
    )  # fmt: skip
    assert num_scores(stored.folder("predict"), tmp_path) > 500
    after = sorted(path.name for path in stored.cache.rglob("*") if path.suffix != ".sha256")
    assert after == before  # a stored graph of before the seals is built again, under its name


async def test_a_training_resumes_from_a_stored_checkpoint(stored: Stored, tmp_path: Path) -> None:
    """The last one of a training with AdaBelief: the evaluation that follows gives the stored predictions."""
    source = stored.folder("second train")
    checkpoint = max((source / "checkpoints").iterdir())
    output = program(
        "atft", "run", str(source / "spec.json"), "--resume", str(checkpoint), "--cache", str(stored.cache),
        "--out", str(tmp_path),
    )  # fmt: skip
    assert num_scores(source, tmp_path) > 100
    last = json.loads(output.splitlines()[-1])
    best = EXPECTED["answers"][f"/jobs/{JOBS['second train']}"]["best"]
    assert (last["type"], last["result"]["best"]["epoch"]) == ("finished", best["epoch"])
    assert (tmp_path / "best.safetensors").read_bytes() == (source / "best.safetensors").read_bytes()


def num_scores(before: Path, after: Path) -> int:
    """How many scores two folders' predictions have; rows must be the same, scores the same but for rounding."""
    a, b = (pq.read_table(folder / "predictions.parquet") for folder in (before, after))
    assert a.schema.equals(b.schema)
    scores = [name for name in a.column_names if name.startswith("score_")]
    assert a.drop_columns(scores).equals(b.drop_columns(scores))
    for name in scores:
        np.testing.assert_allclose(b[name].to_numpy(), a[name].to_numpy(), rtol=0, atol=ROUNDING)
    return sum(len(a) - a[name].null_count for name in scores)
