"""The services of docker-compose.yml, started as processes without a container engine: each command with its
environment only; hosts, ports and folders are mapped to those of this test. Images, users, the read-only root and the
volumes are not tested here.
"""

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
import redis

from client.sdk.sync import Client
from jobs.embedded import servers as embedded
from jobs.embedded.binaries import valkey_binary
from tests.compose import BIN, services
from tests.conftest import with_database

ADMIN_KEY = "an-admin-key"
PANEL = {"name": "panel", "horizons": [1, 5], "planted": {"num_codes": 12, "num_days": 160}}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], what: Callable[[], str], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.2)


class Composition:
    """The services of the file, with their commands and environments mapped to this machine."""

    def __init__(self, variables: dict[str, str], mapping: dict[str, str], folder: Path) -> None:
        self.services = services(variables)
        self.mapping = mapping
        self.home, self.cwd, self.logs = folder / "tmp", folder / "cwd", folder / "logs"
        for path in (self.home, self.cwd, self.logs):
            path.mkdir()
        self.stack = ExitStack()

    def mapped(self, text: str) -> str:
        """The text with every name of the mapping replaced, once: a port put in may contain another name."""
        names = "|".join(re.escape(name) for name in self.mapping)
        return re.sub(names, lambda found: self.mapping[found[0]], text)

    def environment(self, name: str) -> dict[str, str]:
        """The environment of the service, without the variables that the image sets."""
        own = {key: self.mapped(value) for key, value in self.services[name]["environment"].items()}
        return {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(self.home), "PYTHONDONTWRITEBYTECODE": "1", **own}

    def popen(self, name: str, words: list[str], log_name: str) -> subprocess.Popen[bytes]:
        log = self.stack.enter_context((self.logs / log_name).open("ab"))
        environment = self.environment(name)
        command = [self.mapped(word) for word in words]
        program = shutil.which(command[0], path=environment["PATH"])
        assert program is not None, command
        return subprocess.Popen([program, *command[1:]], env=environment, cwd=self.cwd, stdout=log, stderr=log)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        process = self.popen(name, self.services[name]["command"], f"{name}.log")
        self.stack.callback(self.end, process)
        return process

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.kill()
        process.wait(10)

    def healthy(self, name: str) -> bool:
        kind, *words = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.popen(name, words, f"{name}.health.log").wait(30) == 0

    def log(self, name: str) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.logs.glob(f"{name}.*log")))


@pytest.fixture
def empty_database(servers: embedded.EmbeddedServers) -> Iterator[str]:
    name = f"t_{uuid4().hex[:12]}"
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        yield with_database(servers.database_url, name)
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def composition(servers: embedded.EmbeddedServers, empty_database: str, tmp_path: Path) -> Iterator[Composition]:
    with redis.Redis.from_url(servers.redis_url) as broker:
        broker.flushall()
    user, _, server = empty_database.rpartition("@")
    password = user.rpartition(":")[2]
    (tmp_path / "data").mkdir()
    (tmp_path / "runs").mkdir()
    mapping = {
        "postgres:5432/atft": server,
        "redis:6379/0": servers.redis_url.rpartition("@")[2],
        "0.0.0.0": "127.0.0.1",
        "8000": str(free_port()),
        "/data": str(tmp_path / "data"),
        "/runs": str(tmp_path / "runs"),
    }
    secrets = {"POSTGRES_PASSWORD": password, "REDIS_PASSWORD": password, "ATFT_ADMIN_KEY": ADMIN_KEY}
    composition = Composition(secrets, mapping, tmp_path)
    with composition.stack:
        yield composition


def test_every_service_starts_gets_healthy_works_and_stops(composition: Composition) -> None:
    migrate = composition.start("migrate")
    assert migrate.wait(60) == 0, composition.log("migrate")
    running = ("api", "control", "worker", "worker-gpu")
    assert not composition.healthy("worker")  # not started yet: the check can say no
    assert not composition.healthy("api")
    started = {name: composition.start(name) for name in running}
    for name in running:
        wait_until(lambda name=name: composition.healthy(name), lambda name=name: composition.log(name))  # type: ignore[misc]
    url = f"http://127.0.0.1:{composition.mapping['8000']}"
    with httpx.Client(base_url=url, trust_env=False) as http:
        ready = http.get("/readyz", params={"verbose": "true"})
        assert ready.status_code == 200
        assert http.get("/jobs").status_code == 401  # the admin key is in force
    for queue in ("control", "cpu", "gpu"):
        assert queue in ready.json()["checks"]["workers"]["detail"]
    with Client(url, ADMIN_KEY) as service:
        job = service.wait(service.add_dataset(PANEL).id, 90)
        assert job.state == "succeeded", (job, composition.log("worker"))
    for process in started.values():
        process.terminate()
    for name, process in started.items():
        assert process.wait(30) in (0, -signal.SIGTERM), (name, composition.log(name))
    assert list(composition.cwd.iterdir()) == []  # nothing is written to folders that are read-only in the container


def test_the_broker_takes_its_password_from_standard_input(composition: Composition, tmp_path: Path) -> None:
    """The service's shell script with the embedded binary, which a wrapper on the PATH keeps on a port of its own."""
    password, port = composition.services["redis"]["environment"]["REDISCLI_AUTH"], free_port()
    programs, data = tmp_path / "bin", tmp_path / "data"
    programs.mkdir()
    wrapper = programs / "valkey-server"
    wrapper.write_text(f'#!/bin/sh\nexec {valkey_binary()} "$@" --bind 127.0.0.1 --port {port}\n')
    wrapper.chmod(0o755)
    composition.services["redis"]["environment"]["PATH"] = f"{programs}:/usr/bin:/bin"
    process = composition.start("redis")
    with redis.Redis(port=port, password=password) as broker:

        def responds() -> bool:
            try:
                return bool(broker.ping())
            except redis.ConnectionError:
                return False

        wait_until(responds, lambda: composition.log("redis"), 20)
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
        assert {name: broker.config_get(name)[name] for name in wanted} == wanted
    with redis.Redis(port=port) as nobody, pytest.raises(redis.AuthenticationError):
        nobody.ping()
    assert password.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert (data / "appendonlydir").is_dir()
    process.terminate()
    assert process.wait(20) == 0, composition.log("redis")
