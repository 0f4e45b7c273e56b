"""`python -m tests.chaos.equality --runs 20 --kills 10`: G4. Each run is killed K times at random points (its program,
its supervisor, its whole worker) and must end with the weights, predictions and numbers of a run that nobody touched.
"""

import argparse
import contextlib
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from client.sdk import Client, ServiceError
from client.views import Job
from tests.chaos.service import Service, up
from tests.chaos.workload import PANEL, TRAIN

Json = dict[str, Any]
MACHINE = re.compile(r"(system|time)/")  # what a machine measures of itself
FILES = ("best.safetensors", "predictions.parquet")
VICTIMS = {"child": 2, "pool": 4, "worker": 1}  # a worker that is killed often is not started again for a while


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.equality", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=10, help="of each run, at most 19")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    var = Path(tempfile.mkdtemp(prefix="atft-equality-"))
    var.chmod(0o755)
    runs = var / "runs"
    runs.mkdir()
    try:
        with up(var, runs, workers=1, lease_seconds=4.0) as service, service.client() as client:
            report = compare(service, client, options)
    finally:
        shutil.rmtree(var, ignore_errors=True)
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))
    return 0 if report["equal"] == report["runs"] else 1


def compare(service: Service, client: Client, options: argparse.Namespace) -> Json:
    dice = random.Random(options.seed)
    panel = client.add_dataset({"name": "panel", "horizons": [1, 5], "planted": PANEL})
    client.wait(panel.id, 120)
    spec = TRAIN | {"trainer": TRAIN["trainer"] | {"max_epochs": options.epochs}}
    began = time.monotonic()
    alone = client.wait(client.submit("train", spec).id, 900)
    seconds = time.monotonic() - began
    expected = result(client, alone)
    rows = []
    for _ in range(options.runs):
        job = client.submit("train", spec)
        killed = torment(service, client, job.id, options.kills, dice, seconds)
        job = client.wait(job.id, 900)
        found = result(client, job) if job.state == "succeeded" else {}
        different = sorted(name for name in expected if found.get(name) != expected[name])
        row = {"state": job.state, "attempts": job.attempt, "kills": dict(killed)}
        rows.append(row | {"equal": not different, "num_different": len(different), "different": different[:5]})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {
        "runs": options.runs,
        "kills": sum(sum(row["kills"].values()) for row in rows),
        "equal": sum(row["equal"] for row in rows),
        "epochs": options.epochs,
        "numbers_compared": len(expected),
        "undisturbed_seconds": round(seconds, 1),
        "rows": rows,
    }


def torment(
    service: Service, client: Client, job_id: str, kills: int, dice: random.Random, seconds: float
) -> Counter[str]:
    """Kill what runs the job, `kills` times, each somewhere in the next part of its way."""
    killed: Counter[str] = Counter()
    for _ in range(kills):
        job = _training(client, job_id)
        if job.done:
            break
        time.sleep(dice.uniform(0.0, seconds / kills / 2))
        [role] = dice.choices(list(VICTIMS), list(VICTIMS.values()))
        victims = [one for one in service.find(role) if role != "pool" or one.children()]
        attempt = client.job(job_id).attempt
        for victim in victims:
            try:
                victim.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
            killed[role] += 1
        while victims and not (job := client.job(job_id)).done and job.attempt == attempt:
            time.sleep(0.1)
    return killed


def _training(client: Client, job_id: str) -> Job:
    """Once it trains, or has ended."""
    while True:
        with contextlib.suppress(ServiceError):
            job = client.job(job_id)
            if job.done or (job.state == "running" and job.progress is not None and job.progress.phase == "train"):
                return job
        time.sleep(0.1)


def result(client: Client, job: Job) -> Json:
    """All numbers of a job, and the hashes of its files."""
    series = client.metrics(job.id, max_points=100_000).series
    numbers = {
        f"{name} at {step}": value
        for name, points in series.items()
        if not MACHINE.match(name)
        for step, value in zip(points.step, points.value, strict=True)
    }
    listed = {item["name"]: item["sha256"] for item in client.artifacts(job.id)}
    return numbers | {name: listed[name] for name in FILES}


if __name__ == "__main__":
    sys.exit(main())
