"""Fault injection: a thread that kills, freezes, disconnects and fills up parts of a service, chosen by a seed."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import redis

from tests.chaos.service import Service

DISK_BYTES = 4_000_000_000  # the service needs 2 GB free; tmpfs uses memory only for what is written
RESTARTED_ROLES = ("worker", "control", "api")
Fault = tuple[str, float, Callable[[], bool]]


class Killer(threading.Thread):
    """A thread that injects random faults, counted by name in `faults`. `pause_seconds` is the longest pause.

    A process that `atft up` restarts is killed only when older than `steady_seconds`: one that exits repeatedly within
    a minute is given up.
    """

    def __init__(
        self,
        service: Service,
        seed: int,
        *,
        pause_seconds: float = 6.0,
        steady_seconds: float = 61.0,
        full_disk: bool = False,
    ) -> None:
        super().__init__(name="killer", daemon=True)
        self._service = service
        self._random = random.Random(seed)
        self._pause_seconds = pause_seconds
        self._steady_seconds = steady_seconds
        self._stopped = threading.Event()
        self.faults: Counter[str] = Counter()
        self.errors: list[str] = []
        self._choices: list[Fault] = [
            ("SIGKILL child", 5, lambda: self._signal("child", signal.SIGKILL)),
            ("SIGTERM child", 2, lambda: self._signal("child", signal.SIGTERM)),
            ("SIGSTOP child", 2, lambda: self._freeze("child", 3.0)),
            ("SIGKILL supervisor", 4, lambda: self._signal("pool", signal.SIGKILL)),
            ("SIGTERM supervisor", 2, lambda: self._signal("pool", signal.SIGTERM)),
            ("SIGSTOP supervisor past its lease", 3, lambda: self._freeze("pool", service.lease_seconds + 4)),
            ("SIGKILL worker", 3, lambda: self._signal("worker", signal.SIGKILL)),
            ("SIGTERM worker", 3, lambda: self._signal("worker", signal.SIGTERM)),
            ("SIGSTOP worker", 1, lambda: self._freeze("worker", service.lease_seconds + 4)),
            ("SIGKILL control", 1, lambda: self._signal("control", signal.SIGKILL)),
            ("SIGSTOP control", 1, lambda: self._freeze("control", service.lease_seconds + 4)),
            ("SIGKILL API", 2, lambda: self._signal("api", signal.SIGKILL)),
            ("SIGTERM API", 2, lambda: self._signal("api", signal.SIGTERM)),
            ("SIGSTOP API", 1, lambda: self._freeze("api", 4.0)),
            ("SIGKILL Valkey", 2, lambda: self._signal("valkey", signal.SIGKILL)),
            ("SIGTERM Valkey", 1, lambda: self._signal("valkey", signal.SIGTERM)),
            ("SIGSTOP Valkey", 1, lambda: self._freeze("valkey", 4.0)),
            ("FLUSHALL", 2, self._flush),
            ("cut sockets of Valkey", 1, self._cut_valkey),
            ("SIGKILL Postgres", 1, lambda: self._signal("postgres", signal.SIGKILL)),
            ("SIGTERM Postgres", 1, lambda: self._signal("postgres", signal.SIGTERM)),
            ("SIGSTOP Postgres past a lease", 1, self._freeze_postgres),
            ("cut sockets of Postgres", 2, self._cut_postgres),
        ]
        if full_disk:
            self._choices += [
                ("full disk of the runs", 2, lambda: self._fill(service.runs)),
                ("full disk of the servers", 2, lambda: self._fill(service.var / "servers")),
            ]

    def run(self) -> None:
        names, weights, _ = zip(*self._choices, strict=True)
        actions = {name: action for name, _, action in self._choices}
        while not self._stopped.wait(self._random.uniform(0.3, 1.0) * self._pause_seconds):
            [name] = self._random.choices(names, weights)
            try:
                if actions[name]():
                    self.faults[name] += 1
            except (psutil.Error, psycopg.Error, redis.RedisError, OSError) as error:
                self.errors.append(f"{name}: {type(error).__name__}: {error}")

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _victim(self, role: str) -> psutil.Process | None:
        found = self._service.find(role)
        if role in RESTARTED_ROLES:
            found = [one for one in found if time.time() - one.create_time() > self._steady_seconds]
        return self._random.choice(found) if found else None

    def _signal(self, role: str, number: signal.Signals) -> bool:
        victim = self._victim(role)
        if victim is not None:
            victim.send_signal(number)
        return victim is not None

    def _freeze(self, role: str, seconds: float) -> bool:
        victim = self._victim(role)
        return victim is not None and self._suspend([victim], seconds)

    def _freeze_postgres(self) -> bool:
        processes = [one for main in self._service.find("postgres") for one in (main, *main.children(recursive=True))]
        return bool(processes) and self._suspend(processes, self._service.lease_seconds + 4)

    def _suspend(self, victims: list[psutil.Process], seconds: float) -> bool:
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.suspend()
        try:
            time.sleep(seconds)
        finally:
            for victim in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.resume()
        return True

    def _flush(self) -> bool:
        with redis.Redis.from_url(self._service.servers()["redis_url"], socket_timeout=2) as client:
            client.flushall()
        return True

    def _cut_valkey(self) -> bool:
        with redis.Redis.from_url(self._service.servers()["redis_url"], socket_timeout=2) as client:
            client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
            client.execute_command("CLIENT KILL TYPE pubsub")
        return True

    def _cut_postgres(self) -> bool:
        with psycopg.connect(self._service.servers()["database_url"], connect_timeout=3, autocommit=True) as session:
            session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        return True

    def _fill(self, folder: Path) -> bool:
        """Fill the disk for a while: shrink the folder's own file system to what it holds."""
        disk = os.statvfs(folder)
        used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        if not self._resize(folder, used // 1024 + 64):
            return False
        try:
            time.sleep(3.0)
        finally:
            self._resize(folder, DISK_BYTES // 1024)
        return True

    def _resize(self, folder: Path, kilobytes: int) -> bool:
        command = ["mount", "-o", f"remount,size={kilobytes}k", str(folder)]
        return subprocess.call(command, stderr=subprocess.DEVNULL) == 0
