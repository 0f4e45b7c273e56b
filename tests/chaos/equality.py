"""Test of G4: `python -m tests.chaos.equality --runs 20 --kills 10`. Each run of the same training is killed K times at
random moments (its child, its supervisor or its worker) and must end with the metrics, weights, predictions and
evidence of an undisturbed run. Exit code 1: one did not, or was killed fewer times.
"""

import argparse
import contextlib
import hashlib
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from client.sdk.models import Job
from client.sdk.sync import Client, ServiceError
from tests.chaos.service import Service, up
from tests.chaos.workload import PANEL, TRAIN

Json = dict[str, Any]
MACHINE_METRIC = re.compile(r"(system|time)/")  # measurements of the machine
ATTEMPT_SPECIFIC = re.compile(r"memory|threads\.os_threads_peak|git\.dirty")  # evidence that differs by attempt
FILES = ("best.safetensors", "predictions.parquet")
VICTIMS = ("child", "supervisor", "worker")
STEADY_SECONDS = 61.0  # `atft up` gives up a worker that exits repeatedly within a minute
MAX_SECONDS = 3600.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.equality", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=10, help="of each run, at most 19: max_attempts is 20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--width", type=int, default=4, help="runs at a time: most of a run is waiting for a lease")
    parser.add_argument("--lease", type=float, default=6.0, help="seconds")
    parser.add_argument("--out", type=Path, help="the report as JSON")
    options = parser.parse_args()
    var = Path(tempfile.mkdtemp(prefix="atft-equality-"))
    var.chmod(0o755)
    runs = var / "runs"
    runs.mkdir()
    try:
        with up(var, runs, workers=options.width, lease_seconds=options.lease) as service:
            report = compare(service, options)
    finally:
        shutil.rmtree(var, ignore_errors=True)
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1))
    print(table(report))
    whole = all(sum(row["kills"].values()) == options.kills for row in report["rows"])
    return 0 if whole and report["equal"] == report["runs"] else 1


def compare(service: Service, options: argparse.Namespace) -> Json:
    spec = TRAIN | {"trainer": TRAIN["trainer"] | {"max_epochs": options.epochs}}
    with service.client() as client:
        panel = client.add_dataset({"name": "panel", "horizons": [1, 5], "planted": PANEL})
        client.wait(panel.id, 300)
        job = client.submit("train", spec)
        _wait_for_training(client, job.id)
        began = time.monotonic()
        alone = client.wait(job.id, MAX_SECONDS)
        seconds = time.monotonic() - began
        if alone.state != "succeeded":
            raise RuntimeError(alone)
        expected = result(service, client, alone)

    def run(number: int) -> Json:
        rng = random.Random(f"{options.seed} {number}")
        with service.client() as client:
            began = time.monotonic()
            job = client.submit("train", spec)
            kills = kill_repeatedly(service, client, job.id, options.kills, rng, seconds)
            job = client.wait(job.id, MAX_SECONDS)
            found = result(service, client, job) if job.state == "succeeded" else {}
        different = sorted(name for name in expected | found if found.get(name) != expected.get(name))
        row = {
            "run": number,
            "state": job.state,
            "message": job.message,
            "attempts": job.attempt,
            "kills": dict(kills),
            "seconds": round(time.monotonic() - began, 1),
            "equal": not different,
            "num_different": len(different),
            "different": different[:5],
        }
        print(json.dumps(row), file=sys.stderr, flush=True)
        return row

    began = time.monotonic()
    with ThreadPoolExecutor(options.width) as pool:
        rows = list(pool.map(run, range(1, options.runs + 1)))
    return {
        "runs": options.runs,
        "kills": sum(sum(row["kills"].values()) for row in rows),
        "equal": sum(row["equal"] for row in rows),
        "epochs": options.epochs,
        "seed": options.seed,
        "values_compared": len(expected),
        "undisturbed_seconds": round(seconds, 1),
        "seconds": round(time.monotonic() - began, 1),
        "rows": rows,
    }


def kill_repeatedly(
    service: Service, client: Client, job_id: str, kills: int, rng: random.Random, seconds: float
) -> Counter[str]:
    """Kill processes of the job `kills` times at random moments, some before training starts; count them by role.
    `seconds` is the duration of an undisturbed run.
    """
    killed: Counter[str] = Counter()
    while sum(killed.values()) < kills:
        early = rng.random() < 0.15
        job = _wait_for_training(client, job_id, early=early)
        if job.done:
            break
        time.sleep(rng.uniform(0.0, 2.0) if early else rng.uniform(0.0, seconds / kills / 2))
        role = rng.choice(VICTIMS)
        attempt = client.job(job_id).attempt
        if (killing := _kill(service, job_id, role)) is None:
            continue
        killed[killing] += 1
        while not (job := _job(client, job_id)).done and job.attempt == attempt:
            time.sleep(0.1)
    return killed


def _kill(service: Service, job_id: str, role: str) -> str | None:
    """Kill one process of the job and return its role, or None if none runs. A worker that has just started is spared:
    its supervisor is killed instead.
    """
    with contextlib.suppress(psutil.Error, StopIteration):
        child = next(one for one in service.find("child") if any(job_id in part for part in one.cmdline()))
        supervisor = child.parent()
        worker = supervisor and supervisor.parent()
        if supervisor is None or worker is None:
            return None
        if role == "worker" and time.time() - worker.create_time() < STEADY_SECONDS:
            role = "supervisor"
        {"child": child, "supervisor": supervisor, "worker": worker}[role].send_signal(signal.SIGKILL)
        return role
    return None


def _job(client: Client, job_id: str) -> Job:
    while True:
        with contextlib.suppress(ServiceError):
            return client.job(job_id)
        time.sleep(0.2)


def _wait_for_training(client: Client, job_id: str, *, early: bool = False) -> Job:
    """Wait until the job trains (`early`: has been claimed) or has ended, and return it."""
    while True:
        job = _job(client, job_id)
        begun = job.state == "running" and (early or (job.progress is not None and job.progress.phase == "train"))
        if job.done or begun:
            return job
        time.sleep(0.1)


def result(service: Service, client: Client, job: Job) -> Json:
    """All numbers of a job, its evidence, and the hashes of its files as they are on the disk."""
    series = client.metrics(job.id, max_points=100_000).series
    numbers = {
        f"{name} at {step}": value
        for name, points in series.items()
        if not MACHINE_METRIC.match(name)
        for step, value in zip(points.step, points.value, strict=True)
    }
    evidence = {
        name: value for name, value in _flat(client.evidence(job.id)).items() if not ATTEMPT_SPECIFIC.match(name)
    }
    listed = {item["name"]: item["sha256"] for item in client.artifacts(job.id)}
    for name in FILES:
        files = (service.runs / "jobs" / job.id / str(job.attempt)).rglob(name)
        if listed[name] not in {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}:
            raise RuntimeError(f"the listed {name} of job {job.id} is not on the disk")
    named_evidence = {f"evidence {name}": value for name, value in evidence.items()}
    return numbers | named_evidence | {name: listed[name] for name in FILES}


def _flat(body: object, name: str = "") -> Json:
    if not isinstance(body, dict):
        return {name: body}
    parts = (_flat(value, f"{name}.{key}" if name else str(key)) for key, value in body.items())
    return {key: value for part in parts for key, value in part.items()}


def table(report: Json) -> str:
    """The report as text."""
    lines = [" run  attempts  child  supervisor  worker  seconds  result"]
    for row in report["rows"]:
        kills = (row["kills"].get(role, 0) for role in VICTIMS)
        counts = "".join(f"{count:{width}}" for count, width in zip(kills, (7, 12, 8), strict=True))
        end = "equal" if row["equal"] else f"{row['state']}, {row['num_different']} differ: {row['different']}"
        lines.append(f"{row['run']:4}{row['attempts']:10}{counts}{row['seconds']:9.0f}  {end}")
    return "\n".join(
        [
            *lines,
            "",
            f"{report['equal']} of {report['runs']} runs of {report['epochs']} epochs, with {report['kills']} kills in "
            f"all, are equal to the undisturbed one in {report['values_compared']} values "
            f"({report['seconds']:.0f} s, seed {report['seed']})",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
