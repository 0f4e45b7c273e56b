"""`atft up`: supervises the whole service on one machine: embedded servers, migration, API, workers.

Start order: embedded servers (unless both URLs are given), migration, then API, workers and control together. Stop
order: API, workers (which save and hand back their jobs), servers. When it is killed itself, on Linux all processes
that it started are killed too.
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

from client.local.processes import LOG_BYTES, ManagedProcess, RestartLimitReached

READY_SECONDS: Final = 90.0
SERVERS_SECONDS: Final = 60.0
API_STOP_SECONDS: Final = 5.0
WORKER_STOP_SECONDS: Final = 15.0
SERVERS_STOP_SECONDS: Final = 10.0
URL_NAMES: Final = ("ATFT_DATABASE_URL", "ATFT_REDIS_URL")


class UpError(Exception):
    """The service could not be started; the message says what to do."""


class AlreadyUp(UpError):
    """Another `atft up` holds the lock of this folder."""


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived before the service was ready."""


@dataclass
class UpOptions:
    """The options of `atft up`."""

    host: str
    port: int
    var: Path
    workers: int
    urls: dict[str, str]  # ATFT_DATABASE_URL and ATFT_REDIS_URL, or empty: embedded servers
    settings: Mapping[str, str] = field(default_factory=dict)  # further ATFT_* variables for the processes
    gpus: int | None = None  # None: all that the driver reports


def count_gpus(log: Callable[[str], None]) -> int:
    """Number of GPUs that this installation can use, without importing torch."""
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
        log(f"{found} GPU(s) found, but torch {version} is a CPU build: jobs run on the CPU")
        return 0
    return found


class LocalService:
    """The processes of one `atft up`; `run` blocks until a signal and returns the exit code."""

    def __init__(self, options: UpOptions, log: Callable[[str], None], announce_ready: Callable[[str], None]) -> None:
        self.options, self.log, self.announce_ready = options, log, announce_ready
        self.var = options.var.resolve()
        self.logs = self.var / "log"
        self.servers: ManagedProcess | None = None
        self.processes: list[ManagedProcess] = []
        self.urls = options.urls
        self.signals: list[int] = []

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._record_signal)
        self.logs.mkdir(parents=True, exist_ok=True)
        with self._lock_folder() as lock:
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
        self._set_environment(
            (self.options.urls or self._start_servers())
            | self._make_folders()
            | dict(self.options.settings)
            | {"ATFT_BIND": self.options.host}
        )
        self._migrate()
        self.processes = self._make_processes(listener)
        for process in self.processes:
            process.rotate_log()
            process.start()
        self._wait_ready(url)
        self.announce_ready(f"ready {url}")
        while not self.signals:
            self._restart_exited()
            time.sleep(0.2)
        self.log("stopping")
        return 0

    # -- starting

    def _lock_folder(self) -> IO[str]:
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
        """The listening socket, inherited by the API process: while that restarts, clients wait instead of failing."""
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self.options.host, self.options.port, type=socket.SOCK_STREAM
            )[0]
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                listener.listen(1024)
            except OSError:
                listener.close()
                raise
        except OSError as error:
            raise UpError(
                f"cannot listen on {self.options.host}:{self.options.port}: {error.strerror}; give another --port"
            ) from error
        return listener

    def _make_folders(self) -> dict[str, str]:
        folders = {"ATFT_DATA_ROOT": self.var / "data", "ATFT_RUN_ROOT": self.var / "runs"}
        for name, folder in folders.items():
            if name not in self.options.settings:
                folder.mkdir(parents=True, exist_ok=True)
        return {name: str(folder) for name, folder in folders.items()}

    def _start_servers(self) -> dict[str, str]:
        """Start the embedded servers' supervisor and read their URLs from a pipe, since they contain a password."""
        command = [sys.executable, "-m", "jobs.embedded", "--var", str(self.var)]
        self.servers = ManagedProcess("servers", command, self.logs / "servers.log", parent_death_signal=signal.SIGTERM)
        self.servers.rotate_log()
        read_end, write_end = os.pipe()
        self.servers.start(stdout=write_end)
        os.close(write_end)
        urls = self._read_urls(read_end)
        if set(urls) != set(URL_NAMES):
            raise UpError(
                f"the embedded servers did not start; {self.servers.log} ends with:\n{self.servers.log_tail()}"
            )
        self.urls = urls
        return urls

    def _read_urls(self, read_end: int) -> dict[str, str]:
        text = b""
        end = time.monotonic() + SERVERS_SECONDS
        with os.fdopen(read_end, "rb", buffering=0) as pipe, selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while time.monotonic() < end and text.count(b"\n") < len(URL_NAMES):
                if self.signals:
                    raise Interrupted
                if selector.select(0.2):
                    chunk = pipe.read(65536)
                    if not chunk:
                        break
                    text += chunk
        return dict(line.split("=", 1) for line in text.decode().splitlines() if line.startswith(URL_NAMES))

    def _set_environment(self, variables: Mapping[str, str]) -> None:
        for name, value in variables.items():
            os.putenv(name, value)  # only for child processes: settings are read in jobs/settings.py

    def _migrate(self) -> None:
        log = self.logs / "migrate.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "jobs.admin", "migrate"]
            code = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        if self.signals:
            raise Interrupted
        if code:
            raise UpError(f"the migration failed; {log} ends with:\n{log.read_text(errors='replace')[-2000:]}")

    def _make_processes(self, listener: socket.socket) -> list[ManagedProcess]:
        def managed(name: str, *command: str, pass_fds: tuple[int, ...] = ()) -> ManagedProcess:
            return ManagedProcess(name, [sys.executable, "-m", *command], self.logs / f"{name}.log", pass_fds=pass_fds)

        socket_number = str(listener.fileno())
        api = managed(
            "api", "uvicorn", "--factory", "api.app:create_app", "--fd", socket_number,
            "--http", "api.http.graceful:GracefulHttpProtocol", "--timeout-graceful-shutdown", "3", "--no-access-log",
            pass_fds=(listener.fileno(),),
        )  # fmt: skip
        gpus = count_gpus(self.log) if self.options.gpus is None else self.options.gpus
        workers = [
            managed(f"worker-cpu-{index}", "worker", "--queue", "cpu", "--device", str(index))
            for index in range(self.options.workers)
        ]
        workers += [
            managed(f"worker-gpu-{index}", "worker", "--queue", "gpu", "--device", str(index)) for index in range(gpus)
        ]
        return [api, *workers, managed("control", "worker", "--control")]

    def _wait_ready(self, url: str) -> None:
        """Poll `/readyz` until the API accepts jobs; workers may become ready a moment later."""
        end = time.monotonic() + READY_SECONDS
        problem = "no response"
        with httpx.Client(timeout=5, trust_env=False) as http:
            while time.monotonic() < end:
                if self.signals:
                    raise Interrupted
                self._restart_exited()
                try:
                    response = http.get(f"{url}/readyz", params={"verbose": "true"})
                except httpx.TransportError as error:
                    problem = str(error)
                else:
                    if response.status_code == httpx.codes.OK:
                        return
                    problem = response.text[:1000]
                time.sleep(0.2)
        tails = "\n".join(f"{process.log}:\n{process.log_tail()}" for process in self.processes)
        raise UpError(f"not ready after {READY_SECONDS:.0f} s: {problem}\n{tails}")

    # -- supervising and stopping

    def _restart_exited(self) -> None:
        if self.servers is not None and not self.servers.is_running():
            self.log("the embedded servers' supervisor exited; restarting it")
            before = self.urls
            urls = self._start_servers()
            if urls != before:  # the ports changed: every process needs the new URLs
                self._set_environment(urls)
                for process in self.processes:
                    process.terminate()
        for process in self.processes:
            if line := process.restart_if_exited():
                self.log(line)
            process.rotate_log(LOG_BYTES)

    def _stop(self) -> None:
        """Stop the API first (no new jobs), then all workers in parallel, then the servers that they write to."""
        started = self.processes
        for process in started[:1]:
            process.stop(API_STOP_SECONDS)
        for process in started[1:]:
            process.terminate()
        end = time.monotonic() + WORKER_STOP_SECONDS
        for process in started[1:]:
            if not process.stop(max(0.1, end - time.monotonic())):
                self.log(f"{process.name} had to be killed; its job continues after its lease has expired")
        if self.servers is not None and not self.servers.stop(SERVERS_STOP_SECONDS):
            self.log("the embedded servers had to be killed")

    def _record_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signals.append(number)


def up(options: UpOptions, log: Callable[[str], None], announce_ready: Callable[[str], None]) -> int:
    """Run until SIGINT or SIGTERM. Exit codes: 0; 1 a process did not start or kept exiting; 2 the folder is in use."""
    try:
        return LocalService(options, log, announce_ready).run()
    except AlreadyUp as error:
        log(str(error))
        return 2
    except (UpError, RestartLimitReached) as error:
        log(str(error))
        return 1
