"""A running `atft up` for the chaos tests: its address, its processes by role, and its resource usage."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from client.sdk.sync import Client

ROOT = Path(__file__).parents[2]
NAMES = ("ATFT_DATABASE_URL", "ATFT_REDIS_URL", "ATFT_DATA_ROOT", "ATFT_RUN_ROOT", "ATFT_ADMIN_KEY", "ATFT_URL")
# Words in the command line of each role's processes. A pool process is a child of its worker.
ROLES: dict[str, tuple[str, ...]] = {
    "child": ("-m", "atft", "--events-fd"),
    "worker": ("celery", "cpu-"),
    "control": ("celery", "control-0@"),
    "api": ("uvicorn",),
    "valkey": ("valkey-server",),
    "postgres": ("bin/postgres",),
}


@dataclass
class Service:
    """A running `atft up`; `runs` is its run root."""

    process: subprocess.Popen[str]
    url: str
    var: Path
    runs: Path
    lease_seconds: float

    def servers(self) -> dict[str, str]:
        """`database_url` and `redis_url` of the embedded servers."""
        state = json.loads((self.var / "embedded.json").read_text())
        password = state["password"]
        return {
            "database_url": f"postgresql://atft:{password}@127.0.0.1:{state['postgres_port']}/atft",
            "redis_url": f"redis://:{password}@127.0.0.1:{state['valkey_port']}/0",
        }

    def client(self) -> Client:
        return Client(self.url)

    def all(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def find(self, role: str) -> list[psutil.Process]:
        """Running processes of a role, oldest first; supervisors run in the `pool` processes."""
        if role == "pool":
            return [child for main in self.find("worker") for child in _children(main) if _is_pool(child)]
        found = []
        for process in self.all():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                parent = process.parent()
                if (
                    all(any(word in part for part in line) for word in ROLES[role])
                    and process.status() != psutil.STATUS_ZOMBIE
                    and (parent is None or role == "child" or not _same_program(parent, process))
                ):
                    found.append((process.create_time(), process.pid, process))
        return [process for _, _, process in sorted(found)]

    def resource_usage(self) -> dict[str, dict[str, int]]:
        """File descriptors, resident bytes and processes by role, and connections to Postgres."""
        held: dict[str, dict[str, int]] = {}
        for role in ("api", "worker", "pool", "control"):
            for process in self.find(role):
                with contextlib.suppress(psutil.Error):
                    mine = held.setdefault(role, {"descriptors": 0, "bytes": 0, "processes": 0})
                    mine["descriptors"] += process.num_fds()
                    mine["bytes"] += process.memory_info().rss
                    mine["processes"] += 1
        held["postgres"] = {"connections": sum("127.0.0.1(" in " ".join(p.cmdline()) for p in self._backends())}
        return held

    def _backends(self) -> Iterator[psutil.Process]:
        for process in self.find("postgres"):
            yield from _children(process)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children()
    return []


def _is_pool(process: psutil.Process) -> bool:
    """Whether a child of a worker is a pool process; the resource tracker is a child too, but not one."""
    with contextlib.suppress(psutil.Error):
        return any("spawn_main" in part for part in process.cmdline())
    return False


def _same_program(parent: psutil.Process, process: psutil.Process) -> bool:
    """Whether the process is a fork of its parent rather than a program of its own."""
    with contextlib.suppress(psutil.Error):
        return parent.cmdline()[:4] == process.cmdline()[:4]
    return False


@contextlib.contextmanager
def up(var: Path, runs: Path, *, workers: int = 2, lease_seconds: float = 8.0) -> Iterator[Service]:
    """Start `atft up`; at the end stop it and check that no process is left."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | {
        "ATFT_LEASE_SECONDS": str(lease_seconds),
        "ATFT_SWEEP_SECONDS": "1",
        "ATFT_RUN_ROOT": str(runs),
    }
    arguments = ["--port", "0", "--var", str(var), "--gpus", "0", "--workers", str(workers)]
    command = [sys.executable, "-m", "client.cli", "up", *arguments]
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=(var / "up.log").open("w"), text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("ready "):
        raise RuntimeError((var / "up.log").read_text())
    service = Service(process, line.split()[1], var, runs, lease_seconds)
    try:
        yield service
    finally:
        everything = service.all()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        psutil.wait_procs(everything, timeout=5)
        process.stdout.close()
        left = [one for one in everything if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        if left:
            raise RuntimeError(f"{len(left)} processes outlived the service: {[one.cmdline() for one in left]}")
