"""Embedded Postgres and Valkey: child processes with their data under one folder, for machines without such servers.
Each server is a direct child in its own session; on Linux the kernel stops it when the thread that started it dies
(PR_SET_PDEATHSIG), so `start` and `check` must be called by a thread that lives as long as the servers.
"""

import argparse
import contextlib
import fcntl
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import psycopg
import redis

from jobs.embedded import record
from jobs.embedded.binaries import (
    Account,
    EmbeddedError,
    copy_package,
    make_state_root,
    postgres_folder,
    server_account,
    valkey_binary,
)

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 20.0
_STATUS_LINE: Final = 7  # index of the line in postmaster.pid


def _is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _choose_port(remembered: int | None) -> int:
    """The port of the last start, if it is free within 5 s (its old server may still be stopping), else a random free
    port below the ephemeral ones.
    """
    if remembered is not None:
        for _ in range(50):
            if _is_port_free(remembered):
                return remembered
            time.sleep(0.1)
    ports = random.SystemRandom()
    while True:
        port = ports.randrange(15_000, 32_000)
        if _is_port_free(port):
            return port


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if ready():
            return True
        time.sleep(0.02)
    return False


@dataclass
class Server:
    """One server process that can be started, checked and stopped."""

    name: str
    command: list[str]
    folder: Path
    log: Path
    account: Account
    stop_signal: signal.Signals
    ready: Callable[[], bool]
    stopping: Callable[[], bool] = lambda: False  # whether it is shutting down and refuses new connections
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start the server and wait until it is ready. Raises EmbeddedError."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:  # retried, because orphans of a killed postmaster take a moment to exit
            with self.log.open("ab") as output:
                self.process = self.account.popen(self.command, self.folder, output, self.stop_signal)
            if _wait_until(self.ready, self.process, end - time.monotonic()):
                return
            self.stop()
            time.sleep(0.2)
        raise EmbeddedError(f"{self.name} did not start; {self.log} ends with:\n{self.log_tail()}")

    def alive(self) -> bool:
        """Whether the process is running."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        if self.process is None:
            return
        for signal_number, seconds in ((self.stop_signal, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            if self.process.poll() is None:
                self.process.send_signal(signal_number)
                try:
                    self.process.wait(seconds)
                except subprocess.TimeoutExpired:
                    continue
        self.process = None

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])


@dataclass
class EmbeddedServers:
    """Both running servers and their URLs. Use as a context manager, or call `stop`."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    postgres: Server
    valkey: Server
    lock: IO[str]

    def check(self) -> list[str]:
        """Restart servers that have exited or are shutting down, on the same port; returns their names. Raises
        EmbeddedError when one does not start.
        """
        dead = [server for server in (self.postgres, self.valkey) if not server.alive() or server.stopping()]
        for server in dead:
            server.stop()
            server.start()
        return [server.name for server in dead]

    def stop(self) -> None:
        self.valkey.stop()
        self.postgres.stop()
        self.lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _acquire_lock(var: Path) -> IO[str]:
    lock = (var / "embedded.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise EmbeddedError(
            f"the servers under {var} are already running, started by process {holder}: stop it, or use another --var"
        ) from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _initdb(binaries: Path, data: Path, account: Account, password: str, log: Path) -> None:
    draft = data.with_name("postgres.new")
    shutil.rmtree(draft, ignore_errors=True)
    secret = data.with_name("initdb.password")
    secret.write_text(password)
    account.chown(secret, 0o600)
    command = [
        str(binaries / "bin/initdb"),
        "-D",
        str(draft),
        "-U",
        "atft",
        "--auth=scram-sha-256",
        f"--pwfile={secret}",
        "--encoding=UTF8",
        "--no-locale",
    ]
    try:
        with log.open("ab") as output:
            code = account.popen(command, data.parent, output, signal.SIGTERM).wait(120)
    finally:
        secret.unlink()
    if code != 0:
        raise EmbeddedError(f"initdb ended with {code}; {log} says:\n{log.read_text(errors='replace')[-2000:]}")
    draft.rename(data)


def _make_home(home: Path, var: Path, account: Account) -> None:
    if not home.is_relative_to(var):
        make_state_root()
    home.mkdir(exist_ok=True)
    account.chown(home, 0o700)


def start(var: Path, *, postgres_options: Sequence[str] = ()) -> EmbeddedServers:
    """Start both servers with their data under `var`. Raises EmbeddedError, also when they are running already."""
    var = var.resolve()
    var.mkdir(parents=True, exist_ok=True)
    lock = _acquire_lock(var)
    try:
        embedded = _prepare(var, lock, postgres_options)
    except BaseException:
        lock.close()
        raise
    try:
        embedded.postgres.start()
        embedded.valkey.start()
        _create_database(embedded.database_url)
    except BaseException:
        embedded.stop()
        raise
    return embedded


def _prepare(var: Path, lock: IO[str], postgres_options: Sequence[str]) -> EmbeddedServers:
    account = server_account()
    before = record.read(var)
    home = record.servers_folder(var, before, new_outside=not account.can_traverse(var))
    _make_home(home, var, account)
    binaries, valkey_server = postgres_folder(), valkey_binary()
    if not account.can_run(binaries / "bin/initdb"):
        binaries = copy_package(binaries)
    if not account.can_run(valkey_server):
        valkey_server = copy_package(valkey_server)
    now = record.Record(
        postgres_port=_choose_port(None if before is None else before.postgres_port),
        valkey_port=_choose_port(None if before is None else before.valkey_port),
        password=secrets.token_urlsafe(24) if before is None else before.password,
        home=str(home),
        folder=str(var),
    )
    record.write(var, now)
    password = now.password
    return EmbeddedServers(
        database_url=f"postgresql://atft:{password}@127.0.0.1:{now.postgres_port}/atft",
        redis_url=f"redis://:{password}@127.0.0.1:{now.valkey_port}/0",
        postgres=_postgres(
            binaries, home, var / "postgres.log", account, now.postgres_port, password, postgres_options
        ),
        valkey=_valkey(valkey_server, home, var / "valkey.log", account, now.valkey_port, password),
        lock=lock,
    )


def _refuse_live_copy(data: Path) -> None:
    """Raises EmbeddedError for data that were copied while their server ran, if it still does: they may be torn."""
    try:
        pid, origin = (data / "postmaster.pid").read_text().splitlines()[:2]
        os.kill(int(pid), 0)
    except (OSError, ValueError):  # no such file or process
        return
    if origin != str(data):
        raise EmbeddedError(
            f"{data} was copied from {origin} while the databases there ran, as they still do: stop them and copy it "
            "again, or use `atft backup`, which may run beside them"
        )


def _postgres(
    binaries: Path, home: Path, log: Path, account: Account, port: int, password: str, options: Sequence[str]
) -> Server:
    data = home / "postgres"
    _refuse_live_copy(data)
    if not data.exists():
        _initdb(binaries, data, account, password, log)
    url = f"postgresql://atft:{password}@127.0.0.1:{port}/postgres"

    def ready() -> bool:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stopping() -> bool:
        """Whether it got a SIGTERM: it then waits for its last client, and pooled connections never close."""
        with contextlib.suppress(FileNotFoundError):
            lines = (data / "postmaster.pid").read_text().splitlines()
            return len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "stopping"
        return False

    command = [
        str(binaries / "bin/postgres"),
        "-D",
        str(data),
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-k",
        "",
        "-c",
        "max_connections=200",
        *options,
    ]
    return Server("postgres", command, home, log, account, signal.SIGINT, ready, stopping)


def _valkey(program: Path, home: Path, log: Path, account: Account, port: int, password: str) -> Server:
    data = home / "valkey"
    data.mkdir(exist_ok=True)
    account.chown(data, 0o700)
    secret = home / "valkey.conf"  # in a file, because other users can read command lines
    secret.write_text(f"requirepass {password}\n")
    account.chown(secret, 0o600)

    def ready() -> bool:
        with redis.Redis(host="127.0.0.1", port=port, password=password, socket_timeout=2) as client:
            try:
                return bool(client.ping())
            except redis.exceptions.RedisError:
                return False

    command = [
        str(program),
        str(secret),
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--dir",
        str(data),
        "--appendonly",
        "yes",
        "--appendfsync",
        "everysec",
        "--maxmemory-policy",
        "noeviction",
        "--save",
        "",
    ]
    return Server("valkey", command, home, log, account, signal.SIGTERM, ready)


def _create_database(url: str) -> None:
    base, _, name = url.rpartition("/")
    with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))


def main() -> int:
    """Run both servers until SIGINT or SIGTERM; prints the two settings that the service needs."""
    parser = argparse.ArgumentParser(prog="python -m jobs.embedded", description=main.__doc__)
    parser.add_argument("--var", type=Path, default=Path("var"))
    arguments = parser.parse_args()
    stop_requested = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop_requested.set())
    try:
        with start(arguments.var) as servers:
            sys.stdout.write(f"ATFT_DATABASE_URL={servers.database_url}\nATFT_REDIS_URL={servers.redis_url}\n")
            sys.stdout.flush()
            while not stop_requested.wait(1.0):
                for restarted in servers.check():
                    sys.stderr.write(f"{restarted} had exited and was restarted\n")
    except EmbeddedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
