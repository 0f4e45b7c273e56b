"""Requests and table contents for load.py, alike for both servers: same jobs, metrics and numbers of rows."""

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Callable, Mapping

import psycopg
from sqlalchemy import text
from traffic import connect, request

from atft.spec.job import TrainSpec
from jobs.access import keys
from jobs.db.session import sync_engine, sync_sessions, transaction
from jobs.record import catalog, lifecycle, submission
from jobs.settings import Settings
from jobs.states import JobKind, JobState

NAMES = [
    f"{split}/{metric}" for split in ("train", "val") for metric in ("loss", "ic", "icir", "sharpe_ann", "turnover")
]
METRIC = "val/loss"  # no other metric name has this prefix
RUNS, STEPS, QUEUED, PAGE = 100, 1_000, 20, 50
STREAM_JOBS = 100
RequestFactory = Callable[[int], bytes]
POINTS = text("""
    INSERT INTO metrics (job_id, name, step, attempt, value)
    SELECT :job, name, step, 1, sin(step)
    FROM unnest(CAST(:names AS text[])) name, generate_series(1, :steps) step""")
LATEST = text("UPDATE jobs SET metrics = CAST(:latest AS jsonb) WHERE id = :job")


def seed_ours(settings: Settings) -> tuple[str, list[str], list[str]]:
    """Insert a dataset, RUNS finished jobs with 10⁶ metric rows in all, QUEUED queued and STREAM_JOBS running jobs;
    return an API key, the ids of the finished jobs and those of the running ones.
    """
    days, names = 2_500, 1_000
    manifest = {
        "feature_names": [f"f{i:03d}" for i in range(112)], "market_names": [], "horizons": [1, 5, 10, 20],
        "num_days": days, "num_codes": names, "num_rows": days * names,
    }  # fmt: skip
    engine = sync_engine(settings)
    with transaction(sync_sessions(engine)) as session:
        _, key = keys.create(
            session, name="load", scopes=["jobs:read", "jobs:write"], quota={"jobs": 10_000_000, "streams": 2_000}
        )
        build = submission.submit(
            session, submission.NewJob(kind=JobKind.DATASET, spec={}, spec_digest="", queue="cpu", dataset="bench")
        ).job
        lifecycle.claim(session, build.id, worker="w", host="h", device="cpu", lease_seconds=60)
        catalog.register_dataset(
            session,
            build,
            catalog.NewDataset(
                name="bench",
                fingerprint="f" * 16,
                spec={"name": "bench"},
                manifest=manifest,
                profile={"names_per_day": {"median": names}},
                leak_report={},
                path="caches/f",
                size_bytes=1,
            ),
        )
        lifecycle.settle(session, build.id, 1, JobState.SUCCEEDED)
        spec = TrainSpec(dataset="bench").model_dump(mode="json")
        ids = {}
        for what, count in (("finished", RUNS), ("running", STREAM_JOBS), ("queued", QUEUED)):
            ids[what] = [
                submission.submit(
                    session,
                    submission.NewJob(
                        kind=JobKind.TRAIN,
                        spec=spec,
                        spec_digest="d",
                        queue="cpu",
                        name=f"{what} {i}",
                        dataset="bench",
                        dataset_fingerprint="f" * 16,
                    ),
                ).job.id
                for i in range(count)
            ]
        for job_id in ids["finished"] + ids["running"]:
            lifecycle.claim(session, job_id, worker="w", host="h", device="cpu", lease_seconds=7200)
        for job_id in ids["finished"]:
            session.execute(POINTS, {"job": job_id, "names": NAMES, "steps": STEPS})
            session.execute(LATEST, {"job": job_id, "latest": json.dumps(dict.fromkeys(NAMES, 0.5))})
            lifecycle.settle(session, job_id, 1, JobState.SUCCEEDED)
    engine.dispose()
    return key, [str(i) for i in ids["finished"]], [str(i) for i in ids["running"]]


def our_requests(key: str, jobs: list[str]) -> dict[str, RequestFactory]:
    """Request factories by operation. Submits carry an Idempotency-Key, as those of our clients do."""
    headers = {"Authorization": f"Bearer {key}"}

    def submit(number: int) -> bytes:
        body = json.dumps({"dataset": "bench", "name": f"load {number}", "seed": number}).encode()
        return request("POST", "/jobs/train", headers | {"Idempotency-Key": str(uuid.uuid4())}, body)

    return {
        "submit": submit,
        "list": lambda _: request("GET", f"/jobs?limit={PAGE}", headers),
        "metrics": lambda number: request("GET", f"/jobs/{jobs[number % RUNS]}/metrics?name={METRIC}", headers),
    }


def seed_mlflow(url: str, port: int) -> tuple[str, list[str]]:
    """Insert the same runs and metric rows into MLflow's tables; return the experiment and its runs."""

    async def post(path: str, body: Mapping[str, object]) -> dict[str, dict[str, dict[str, str]]]:
        connection = await connect(port)
        status, response = await connection.send(request("POST", path, {}, json.dumps(body).encode()))
        connection.transport.close()
        if status != 200:
            sys.exit(f"MLflow answered {status} to {path}: {response[:500]!r}")
        return json.loads(response)  # type: ignore[no-any-return]

    experiment = str(
        asyncio.run(post("/api/2.0/mlflow/experiments/create", {"name": f"load {uuid.uuid4()}"}))["experiment_id"]
    )
    runs = []
    for i in range(RUNS + QUEUED):
        body = {"experiment_id": experiment, "run_name": f"run {i}", "start_time": int(time.time() * 1e3)}
        runs.append(asyncio.run(post("/api/2.0/mlflow/runs/create", body))["run"]["info"]["run_id"])
    with psycopg.connect(url, autocommit=True) as database:
        values: list[object] = [runs[:RUNS], NAMES, STEPS]
        database.execute("""
            INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
            SELECT name, sin(step), 1700000000000 + step, run, step, false
            FROM unnest(%s::text[]) run, unnest(%s::text[]) name, generate_series(1, %s) step""", values)  # fmt: skip
        database.execute("""
            INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
            SELECT name, 0.5, 1700000000000, %s, false, run FROM unnest(%s::text[]) run, unnest(%s::text[]) name""",
            [STEPS, runs[:RUNS], NAMES])  # fmt: skip
    return experiment, runs


def mlflow_requests(experiment: str, runs: list[str]) -> dict[str, RequestFactory]:
    api = "/api/2.0/mlflow"

    def create(number: int) -> bytes:
        body = {"experiment_id": experiment, "run_name": f"load {number}", "start_time": 1_700_000_000_000 + number}
        return request("POST", f"{api}/runs/create", {}, json.dumps(body).encode())

    def batch(number: int) -> bytes:
        step = number + 1
        metrics = [{"key": name, "value": step / 7, "timestamp": 1_700_000_000_000, "step": step} for name in NAMES]
        body = {"run_id": runs[RUNS + number % 8], "metrics": metrics}
        return request("POST", f"{api}/runs/log-batch", {}, json.dumps(body).encode())

    search = json.dumps({"experiment_ids": [experiment], "max_results": PAGE}).encode()
    return {
        "submit": create,
        "list": lambda _: request("POST", f"{api}/runs/search", {}, search),
        "metrics": lambda number: request(
            "GET", f"{api}/metrics/get-history?run_id={runs[number % RUNS]}&metric_key={METRIC}&max_results={STEPS}", {}
        ),
        "record": batch,
    }
