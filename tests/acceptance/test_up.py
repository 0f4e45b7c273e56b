"""`atft up`: one per folder, a clean shutdown, and no process left when it is killed."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.acceptance.conftest import start_up, wait_for


@pytest.fixture
def var() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="atft-up-"))
    folder.chmod(0o755)  # as root the servers run as another user
    yield folder
    shutil.rmtree(folder)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_one_service_per_folder_and_no_process_survives_a_kill(var: Path) -> None:
    first = start_up(var)
    assert first.stdout is not None
    ready = first.stdout.readline()
    assert ready.startswith("ready http://127.0.0.1:"), first.communicate()[1]
    everything = psutil.Process(first.pid).children(recursive=True)
    assert len(everything) > 6  # Postgres, Valkey, their supervisor, API, two Celery processes with a pool each

    second = start_up(var)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2
    assert f"process {first.pid}" in errors
    assert httpx.get(f"{ready.split()[1]}/readyz", trust_env=False).status_code == 200

    first.send_signal(signal.SIGKILL)
    first.communicate()
    wait_for("nothing is left", lambda: not alive(everything), 60)

    third = start_up(var)  # with the data of the killed one
    assert third.stdout is not None
    assert third.stdout.readline().startswith("ready "), third.communicate()[1]
    everything = psutil.Process(third.pid).children(recursive=True)
    third.send_signal(signal.SIGINT)
    out, errors = third.communicate(timeout=60)
    assert (third.returncode, out) == (0, ""), errors
    assert alive(everything) == []


def test_a_port_in_use_is_reported(var: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start_up(var, "--port", str(taken.getsockname()[1]))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "give another --port" in errors


def test_unreachable_servers_are_reported(var: Path) -> None:
    nowhere = {"ATFT_DATABASE_URL": "postgresql://a:b@127.0.0.1:9/x", "ATFT_REDIS_URL": "redis://127.0.0.1:9/0"}
    process = start_up(var, **nowhere)
    try:
        _, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 1
    assert "migration failed" in errors
    assert "b@" not in errors  # the password
