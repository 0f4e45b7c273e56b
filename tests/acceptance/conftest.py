"""A running `atft up`, once per test module: real servers, API, workers and children, on a free port."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from client.sdk.sync import Client

NAMES = ("ATFT_DATABASE_URL", "ATFT_REDIS_URL", "ATFT_DATA_ROOT", "ATFT_RUN_ROOT", "ATFT_ADMIN_KEY", "ATFT_URL")
PANEL = {"num_codes": 40, "num_days": 200, "num_features": 6, "signal": 0.3, "mode": "full", "seed": 1}
TRAIN = {
    "dataset": "panel",
    "data": {"window": 10, "horizons": [1, 5], "min_names": 10},
    "split": {"val_days": 20, "test_days": 20, "embargo_days": 6},
    "model": {"hidden_size": 16, "attention_heads": 2, "gat_heads": 2},
    "graph": {"correlation_window": 20, "half_life": 10, "neighbours": 5},
    "optimizer": {"name": "adabelief", "lr": 1e-3},
    "scheduler": {"name": "cosine_restarts", "t_0": 3, "t_mult": 2},
    "trainer": {"max_epochs": 4, "batch_size": 80, "checkpoint_every_seconds": 1},
    "baselines": False,
}


def wait_for(what: str, condition: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def start_up(var: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES}
    command = [sys.executable, "-m", "client.cli", "up", "--port", "0", "--var", str(var), "--gpus", "0", *arguments]
    return subprocess.Popen(
        command, env=inherited | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@dataclass(frozen=True)
class Up:
    """A running `atft up`: its URL, its folder, and its processes by command line."""

    process: subprocess.Popen[str]
    url: str
    var: Path

    def all(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def find(self, *parts: str) -> list[psutil.Process]:
        """Processes whose command line has all these parts, oldest first."""
        found = []
        for process in self.all():
            try:
                line = process.cmdline()
                if all(any(part in argument for argument in line) for part in parts):
                    found.append((process.create_time(), process.pid, process))
            except psutil.Error:
                continue
        return [process for _, _, process in sorted(found)]

    def kill(self, *parts: str) -> None:
        [victim, *_] = self.find(*parts)
        victim.send_signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    var = Path(tempfile.mkdtemp(prefix="atft-up-"))
    var.chmod(0o755)  # as root the servers run as another user
    process = start_up(var, ATFT_LEASE_SECONDS="5", ATFT_SWEEP_SECONDS="1")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready "), process.communicate()[1]
    running = Up(process, line.split()[1], var)
    children = running.all()
    try:
        yield running
    finally:
        children += [child for child in running.all() if child not in children]
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    shutil.rmtree(var)


@pytest.fixture(scope="module")
def service(up: Up) -> Iterator[Client]:
    with Client(up.url) as client:
        yield client


@pytest.fixture(scope="module")
def panel(service: Client) -> str:
    """A planted panel, registered over HTTP."""
    job = service.wait(service.add_dataset({"name": "panel", "horizons": [1, 5], "planted": PANEL}).id, 120)
    assert job.state == "succeeded", job
    return "panel"
