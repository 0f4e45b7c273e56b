"""From the submission of a job to its first step, with the child started by exec (cold) and forked by the fork server.

    python benchmarks/bench_start.py [--jobs 20 --specs 20]

One service, one worker at a time: first one that starts every child by exec (ATFT_FORK_SERVER=false), then one with a
fork server. Each runs the same tiny training again and again, one at a time, on an idle service; then trainings of
different specs, whose metrics, weights and evidence must be bit-equal whichever way their child was started.
"""

import argparse
import json
import re
import statistics
import time
from typing import Any
from uuid import UUID

import psutil
from load import HERE
from service import DATASET, SPEC, Service, about, cpu_seconds, running_service, utc_now
from sqlalchemy import text

from jobs.db.session import transaction
from jobs.record import catalog

GOALS = {"cold_median_seconds": 3.0, "forked_median_seconds": 0.5}
FIRST_STEP = text(
    "SELECT extract(epoch FROM min(time)) FROM events "
    "WHERE job_id = :job_id AND kind = 'metrics' AND jsonb_exists(body->'values', 'step/loss')"
)
CLAIMED = text("SELECT extract(epoch FROM started_at) FROM jobs WHERE id = :job_id")
MEASURED = re.compile(r"^(time|system)(\.\d+)?/")  # series of seconds, memory and processor use
UNCOMPARED = re.compile(
    r"^/(memory/|threads/os_threads_peak$)"
)  # evidence of bytes, and of what libraries once started
CHANGES: tuple[dict[str, Any], ...] = (
    {"seed": 1},
    {"optimizer": {"name": "adamw", "lr": 0.01}},
    {"optimizer": {"name": "adabelief"}},
    {"model": {"hidden_size": 16}},
    {"model": {"gat_layers": 2}},
    {"model": {"use_gat": False}},
    {"model": {"use_fan": False}},
    {"model": {"dropout": 0.3}},
    {"data": {"window": 8}},
    {"trainer": {"batch_size": 50}},
    {"trainer": {"accumulate": 2}},
    {"split": {"train_days": 30}},
    {"graph": {"neighbours": 5}},
    {"data": {"horizons": [1]}},
    {"seed": 2, "model": {"hidden_size": 16, "gat_layers": 2}},
    # of other thread limits, at the end: they need a fork server of their own
    {"resources": {"threads": 2}},
    {"resources": {"threads": 2}, "seed": 1},
    {"resources": {"threads": 2}, "model": {"hidden_size": 16}},
    {"resources": {"threads": 2}, "optimizer": {"name": "adabelief"}},
    {"resources": {"threads": 2}, "model": {"use_gat": False}},
)


def changed(change: dict[str, Any]) -> dict[str, Any]:
    """SPEC with some fields of its parts replaced."""
    parts = {name: {**SPEC[name], **part} if isinstance(part, dict) else part for name, part in change.items()}  # type: ignore[dict-item]
    return {**SPEC, **parts}


def run(service: Service, spec: dict[str, Any]) -> tuple[str, float, float]:
    """Run a job on the idle service: its id, the seconds until a worker had it, and until its first step."""
    submitted = time.time()
    job_id = service.client.train(spec).id
    service.finish(job_id)
    with transaction(service.sessions) as session:
        claimed, first_step = (
            float(session.execute(query, {"job_id": job_id}).scalar_one()) for query in (CLAIMED, FIRST_STEP)
        )
    return job_id, claimed - submitted, first_step - submitted


def outcome(service: Service, job_id: str) -> dict[str, Any]:
    """What must not depend on how the child was started."""
    evidence = flat(service.client.evidence(job_id))
    rows = service.client.metrics(job_id, max_points=100_000).rows()
    with transaction(service.sessions) as session:
        files = {row.name: row.sha256 for row in catalog.artifacts(session, UUID(job_id))}
    return {
        "metrics": {f"{name} {step}": value for name, step, value in rows if not MEASURED.search(name)},
        "weights": {name: sha256 for name, sha256 in files.items() if name.startswith("best.")},
        "evidence": {name: value for name, value in evidence.items() if not UNCOMPARED.search(name)},
    }


def flat(body: Any, path: str = "") -> dict[str, Any]:
    if isinstance(body, dict) and body:
        return {key: value for name, part in body.items() for key, value in flat(part, f"{path}/{name}").items()}
    return {path: body}


def percentile(seconds: list[float], share: float) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[round(share * 100) - 1]


def measure(service: Service, worker: psutil.Process, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one worker, and the ids of the jobs of different specs under `jobs`."""
    _, _, first = run(service, SPEC)
    before, runs = cpu_seconds(worker), []
    for number in range(options.jobs):
        runs.append(run(service, SPEC))
        print(f"    {number + 1:3d}  {runs[-1][2]:.3f} s", flush=True)
    spent = cpu_seconds(worker) - before
    seconds = [first_step for _, _, first_step in runs]
    return {
        "first_job_seconds": first,
        "seconds": {
            "median": statistics.median(seconds), "p99": percentile(seconds, 0.99), "max": max(seconds),
            "until_claimed_median": statistics.median(claimed for _, claimed, _ in runs), "each": seconds,
        },
        "worker_cpu_seconds_a_job": spent / options.jobs,
        "jobs": [run(service, changed(change))[0] for change in CHANGES[: options.specs]],
    }  # fmt: skip


def compare(service: Service, cold: list[str], forked: list[str]) -> dict[str, Any]:
    """How many values were compared, and the differences."""
    counts, differences = {"metrics": 0, "weights": 0, "evidence": 0}, []
    for change, pair in zip(CHANGES, zip(cold, forked, strict=True), strict=False):
        one, other = (outcome(service, job_id) for job_id in pair)
        for part, values in one.items():
            counts[part] += len(values)
            if not values:
                raise SystemExit(f"nothing to compare in the {part} of job {pair[0]}")
            names = [
                name for name in values.keys() | other[part] if values.get(name, ...) != other[part].get(name, ...)
            ]
            differences += [
                f"{json.dumps(change)}: {part} {name}: {values.get(name)!r} and {other[part].get(name)!r}"
                for name in sorted(names)
            ]
    return {"specs": len(cold), "values": counts, "differences": differences}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20, help="equal jobs of each worker, at least 2 and at most 200")
    parser.add_argument("--specs", type=int, default=len(CHANGES), help=f"different specs, at most {len(CHANGES)}")
    options = parser.parse_args()
    if not (2 <= options.jobs <= 200 and 1 <= options.specs <= len(CHANGES)):
        parser.error("other numbers are refused")
    now, results = utc_now(), {}
    body = about("start", now) | {"goals": GOALS}
    with running_service("start") as service:
        for index, (name, fork_server) in enumerate((("cold", "false"), ("forked", "true"))):
            print(name, flush=True)
            slot = f"cpu-{index}"
            with service.worker(slot, "--device", str(index), ATFT_FORK_SERVER=fork_server) as worker:
                if index == 0:
                    service.finish(service.client.add_dataset(DATASET).id)
                results[name] = measure(service, worker, options)
        results["equal"] = compare(service, results["cold"].pop("jobs"), results["forked"].pop("jobs"))
    for name in ("cold", "forked"):
        figures, seconds = results[name], results[name]["seconds"]
        print(
            f"{name:<7} submit to first step: median {seconds['median']:.2f} s, "
            f"goal {GOALS[f'{name}_median_seconds']:g}, p99 {seconds['p99']:.2f} s; "
            f"first job {figures['first_job_seconds']:.2f} s; "
            f"{figures['worker_cpu_seconds_a_job']:.2f} CPU seconds a job"
        )
    equal = results["equal"]
    print(f"{equal['specs']} specs, {equal['values']}: {len(equal['differences'])} differences")
    print("\n".join(equal["differences"][:20]))
    target = HERE / "results" / f"{now:%Y-%m-%d}-start.json"
    target.write_text(json.dumps(body | {"results": results}, indent=1) + "\n")
    print(f"written to {target}")


if __name__ == "__main__":
    main()
