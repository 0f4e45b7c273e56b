"""A whole service for bench_start.py and bench_study.py: Postgres, Valkey, one API process, and workers."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from bench_build import processor
from load import VAR, free_port, running_process, wait_until_ready
from sqlalchemy.orm import Session, sessionmaker
from traffic import LOOPBACK

from client.sdk.sync import Client
from jobs.db.migrate import migrate
from jobs.db.session import sync_engine, sync_sessions
from jobs.embedded import servers as embedded
from jobs.settings import Settings

READY_SECONDS = 300.0
DATASET = {
    "name": "bench",
    "planted": {"num_codes": 24, "num_days": 120, "num_features": 5, "signal": 0.3, "seed": 1},
    "horizons": [1, 5],
}
SPEC = {
    "dataset": "bench",
    "data": {"window": 6, "horizons": [1, 5], "min_names": 5},
    "split": {"train_days": 24, "val_days": 12, "test_days": 12, "embargo_days": 7},
    "model": {"hidden_size": 8, "gat_layers": 1, "gat_heads": 2, "attention_heads": 2, "fan_top_k": 2},
    "graph": {"correlation_window": 20, "half_life": 10, "neighbours": 3, "refresh_days": 10},
    "optimizer": {"name": "adamw", "lr": 0.003},
    "trainer": {"max_epochs": 2, "batch_size": 100, "early_stopping": None},
    "resources": {"device": "cpu", "threads": 1},
    "baselines": False,
}


@dataclass(frozen=True)
class Service:
    """`folder` holds all files; `variables` are those of its processes."""

    folder: Path
    settings: Settings
    sessions: sessionmaker[Session]
    client: Client
    variables: Mapping[str, str]

    @contextmanager
    def worker(self, slot: str, *arguments: str, **variables: str) -> Iterator[psutil.Process]:
        """`python -m worker` with `arguments`, once the API lists it as `slot`."""
        log = self.folder / f"{slot}.log"
        command = [sys.executable, "-m", "worker", *arguments]
        with running_process(command, {**self.variables, **variables}, log) as process:
            end = time.monotonic() + READY_SECONDS
            while not any(str(worker["name"]).startswith(f"{slot}@") for worker in self.client.workers()):
                if time.monotonic() > end or not process.is_running():
                    sys.exit(f"worker {slot} did not start; {log} ends with:\n{log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield process

    def finish(self, job_id: str) -> None:
        """Wait for a job, which must succeed."""
        job = self.client.wait(job_id, timeout_seconds=3600)
        if job.state != "succeeded":
            sys.exit(f"job {job.id} of kind {job.kind} {job.state}: {job.message}")


@contextmanager
def running_service(name: str) -> Iterator[Service]:
    """An empty service under var/bench/NAME, which is removed at its end."""
    folder = VAR / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        servers = stack.enter_context(embedded.start(folder))
        variables = {
            "ATFT_DATABASE_URL": servers.database_url,
            "ATFT_REDIS_URL": servers.redis_url,
            "ATFT_RUN_ROOT": str(folder / "runs"),
            "ATFT_DATA_ROOT": str(folder / "data"),
            "PYTHONPATH": os.pathsep.join([str(VAR.parent.parent), os.environ.get("PYTHONPATH", "")]),
        }
        settings = Settings(database_url=servers.database_url, redis_url=servers.redis_url, run_root=folder / "runs")  # type: ignore[arg-type]  # pydantic makes the secrets
        migrate(settings)
        engine = sync_engine(settings)
        stack.callback(engine.dispose)
        port, log = free_port(), folder / "api.log"
        command = [sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app", "--host", LOOPBACK]
        process = stack.enter_context(running_process([*command, "--port", str(port)], variables, log))
        wait_until_ready(port, "/livez", process, log)
        client = stack.enter_context(Client(f"http://{LOOPBACK}:{port}"))
        yield Service(folder, settings, sync_sessions(engine), client, variables)


def cpu_seconds(*roots: psutil.Process) -> float:
    """CPU seconds of these processes and all below them, with those that have ended."""
    processes = [one for root in roots for one in (root, *root.children(recursive=True))]
    return sum(sum(one.cpu_times()[:4]) for one in processes)


def about(name: str, now: datetime) -> dict[str, object]:
    """The head of a result file."""
    return {
        "benchmark": name,
        "time": now.isoformat(timespec="seconds"),
        "device": processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "versions": {
            "python": platform.python_version(),
            **{one: version(one) for one in ("torch", "celery", "optuna")},
        },
    }


def utc_now() -> datetime:
    return datetime.now(UTC)
