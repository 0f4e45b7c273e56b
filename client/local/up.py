"""`atft up`: the whole service on one machine. It only spawns and watches: servers, migration, API, workers.

Order: embedded servers (unless both URLs are given), migration, then API, workers and control side by side. Stopping
goes the other way: API, workers (which save and hand back their jobs), servers. Killed itself, on Linux it takes
everything with it.
"""

import fcntl
import importlib.metadata
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Final

import httpx
import pynvml

from client.local.processes import LOG_BYTES, GaveUp, Program

READY_SECONDS: Final = 90.0
SERVERS_SECONDS: Final = 60.0
API_STOP_SECONDS: Final = 5.0
WORKER_STOP_SECONDS: Final = 15.0
SERVERS_STOP_SECONDS: Final = 10.0
URL_NAMES: Final = ("ATFT_DATABASE_URL", "ATFT_REDIS_URL")


class UpError(Exception):
    """The service could not be started or kept; the message says what to do."""


class AlreadyUp(UpError):
    """Another `atft up` uses this folder."""


class Interrupted(Exception):
    """SIGINT or SIGTERM came before the service was ready."""


@dataclass
class Plan:
    host: str
    port: int
    var: Path
    workers: int
    urls: dict[str, str]  # ATFT_DATABASE_URL and ATFT_REDIS_URL, or empty: embedded servers
    settings: Mapping[str, str] = field(default_factory=dict)  # further ATFT_* variables for what is started
    gpus: int | None = None  # None: as many as the driver shows


def count_gpus(say: Callable[[str], None]) -> int:
    """CUDA devices that this installation can use, without loading torch."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        found = int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()
    version = importlib.metadata.version("torch")
    if found and version.endswith("+cpu"):
        say(f"{found} GPU(s) found, but torch {version} is a CPU build: jobs run on the CPU")
        return 0
    return found


class Service:
    """What one `atft up` runs. `run` returns the exit code."""

    def __init__(self, plan: Plan, say: Callable[[str], None], announce: Callable[[str], None]) -> None:
        self.plan, self.say, self.announce = plan, say, announce
        self.var = plan.var.resolve()
        self.logs = self.var / "log"
        self.servers: Program | None = None
        self.programs: list[Program] = []
        self.urls = plan.urls
        self.signals: list[int] = []

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)
        self.logs.mkdir(parents=True, exist_ok=True)
        with self._only_one() as lock:
            try:
                return self._run(lock)
            except Interrupted:
                return 0
            finally:
                self._stop()

    def _run(self, lock: IO[str]) -> int:
        listener = self._listen()
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
        lock.write(f"{url}\n")
        lock.flush()
        self._export(
            (self.plan.urls or self._start_servers())
            | self._folders()
            | dict(self.plan.settings)
            | {"ATFT_BIND": self.plan.host}
        )
        self._migrate()
        self.programs = self._make_programs(listener)
        for program in self.programs:
            program.rotate_log()
            program.start()
        self._wait_ready(url)
        self.announce(f"ready {url}")
        while not self.signals:
            self._keep_all()
            time.sleep(0.2)
        self.say("stopping")
        return 0

    # -- starting

    def _only_one(self) -> IO[str]:
        lock = (self.var / "up.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().split()
            lock.close()
            raise AlreadyUp(
                f"the service under {self.var} is already up ({' '.join(holder)}): stop it, or give another --var"
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()}\n")
        lock.flush()
        return lock

    def _listen(self) -> socket.socket:
        """Our own socket, handed to the API: while it restarts, the port stays ours and clients wait."""
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self.plan.host, self.plan.port, type=socket.SOCK_STREAM
            )[0]
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except OSError as error:
            raise UpError(
                f"cannot listen on {self.plan.host}:{self.plan.port}: {error.strerror}; give another --port"
            ) from error
        return listener

    def _folders(self) -> dict[str, str]:
        folders = {"ATFT_DATA_ROOT": self.var / "data", "ATFT_RUN_ROOT": self.var / "runs"}
        for name, folder in folders.items():
            if name not in self.plan.settings:
                folder.mkdir(parents=True, exist_ok=True)
        return {name: str(folder) for name, folder in folders.items()}

    def _start_servers(self) -> dict[str, str]:
        """The servers under their own supervisor, which prints their URLs: to a pipe, as they hold a password."""
        command = [sys.executable, "-m", "jobs.embedded", "--var", str(self.var)]
        self.servers = Program("servers", command, self.logs / "servers.log", die_with=signal.SIGTERM)
        self.servers.rotate_log()
        out, into = os.pipe()
        self.servers.start(stdout=into)
        os.close(into)
        urls = self._read_urls(out)
        if set(urls) != set(URL_NAMES):
            raise UpError(
                f"the embedded servers did not start; {self.servers.log} ends with:\n{self.servers.log_tail()}"
            )
        self.urls = urls
        return urls

    def _read_urls(self, out: int) -> dict[str, str]:
        text = b""
        end = time.monotonic() + SERVERS_SECONDS
        with os.fdopen(out, "rb", buffering=0) as pipe, selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while time.monotonic() < end and text.count(b"\n") < len(URL_NAMES):
                if self.signals:
                    raise Interrupted
                if selector.select(0.2):
                    piece = pipe.read(65536)
                    if not piece:
                        break
                    text += piece
        return dict(line.split("=", 1) for line in text.decode().splitlines() if line.startswith(URL_NAMES))

    def _export(self, variables: Mapping[str, str]) -> None:
        for name, value in variables.items():
            os.putenv(
                name, value
            )  # written for what we start, read by nobody here: settings are read in jobs/settings.py

    def _migrate(self) -> None:
        log = self.logs / "migrate.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "jobs.admin", "migrate"]
            code = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        if self.signals:
            raise Interrupted
        if code:
            raise UpError(f"the migration failed; {log} ends with:\n{log.read_text(errors='replace')[-2000:]}")

    def _make_programs(self, listener: socket.socket) -> list[Program]:
        def program(name: str, *command: str, pass_fds: tuple[int, ...] = ()) -> Program:
            return Program(name, [sys.executable, "-m", *command], self.logs / f"{name}.log", pass_fds=pass_fds)

        socket_number = str(listener.fileno())
        api = program(
            "api", "uvicorn", "--factory", "api.app:create_app", "--fd", socket_number,
            "--http", "api.http.graceful:Patient", "--timeout-graceful-shutdown", "3", "--no-access-log",
            pass_fds=(listener.fileno(),),
        )  # fmt: skip
        gpus = count_gpus(self.say) if self.plan.gpus is None else self.plan.gpus
        workers = [
            program(f"worker-cpu-{slot}", "worker", "--queue", "cpu", "--device", str(slot))
            for slot in range(self.plan.workers)
        ]
        workers += [
            program(f"worker-gpu-{slot}", "worker", "--queue", "gpu", "--device", str(slot)) for slot in range(gpus)
        ]
        return [api, *workers, program("control", "worker", "--control")]

    def _wait_ready(self, url: str) -> None:
        """Ready is what `/readyz` says: jobs are accepted; a worker may come a moment later."""
        end = time.monotonic() + READY_SECONDS
        problem = "no answer"
        with httpx.Client(timeout=5, trust_env=False) as http:
            while time.monotonic() < end:
                if self.signals:
                    raise Interrupted
                self._keep_all()
                try:
                    answer = http.get(f"{url}/readyz", params={"verbose": "true"})
                except httpx.TransportError as error:
                    problem = str(error)
                else:
                    if answer.status_code == httpx.codes.OK:
                        return
                    problem = answer.text[:1000]
                time.sleep(0.2)
        tails = "\n".join(f"{program.log}:\n{program.log_tail()}" for program in self.programs)
        raise UpError(f"not ready after {READY_SECONDS:.0f} s: {problem}\n{tails}")

    # -- watching and stopping

    def _keep_all(self) -> None:
        if self.servers is not None and not self.servers.alive():
            self.say("the embedded servers' supervisor ended; starting it again")
            before = self.urls
            urls = self._start_servers()
            if urls != before:  # another program took a port meanwhile: everything must be told
                self._export(urls)
                for program in self.programs:
                    program.ask_to_stop()
        for program in self.programs:
            if line := program.keep():
                self.say(line)
            program.rotate_log(LOG_BYTES)

    def _stop(self) -> None:
        """API first (no new work), then the workers together, at last the servers that they write to."""
        started = self.programs
        for program in started[:1]:
            program.stop(API_STOP_SECONDS)
        for program in started[1:]:
            program.ask_to_stop()
        end = time.monotonic() + WORKER_STOP_SECONDS
        for program in started[1:]:
            if not program.stop(max(0.1, end - time.monotonic())):
                self.say(f"{program.name} had to be killed; its job is taken up again after its lease")
        if self.servers is not None and not self.servers.stop(SERVERS_STOP_SECONDS):
            self.say("the embedded servers had to be killed")

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signals.append(number)


def up(plan: Plan, say: Callable[[str], None], announce: Callable[[str], None]) -> int:
    """Run until SIGINT or SIGTERM. Exit code 0; 1: something would not start or stay; 2: the folder is in use."""
    try:
        return Service(plan, say, announce).run()
    except AlreadyUp as error:
        say(str(error))
        return 2
    except (UpError, GaveUp) as error:
        say(str(error))
        return 1
