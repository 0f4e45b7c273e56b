"""The fork server: its children keep the child protocol; whatever happens to it, programs are started without it."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.unit.worker.attempt.test_child import PROGRAMS, ChildContract, Start, alive, read_all
from worker.attempt import fork_server
from worker.attempt.child import Child, ExitStatus
from worker.attempt.fork_server import ForkServer

PROGRAM = (sys.executable, "-E", str(PROGRAMS / "fork_server.py"))
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer(PROGRAM)
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def start(server: ForkServer, folder: Path) -> Iterator[Start]:
    with ExitStack() as children:

        def start(program: str, *arguments: str, environment: dict[str, str] | None = None, **options: Any) -> Child:
            child = Child(
                [*PROGRAM, str(PROGRAMS / f"{program}.py"), "--out", str(folder), *arguments],
                environment=ENVIRONMENT | {"TMPDIR": str(folder / "tmp")} | (environment or {}),
                cwd=folder,
                log=folder / "log.txt",
                fork_server=server,
                **options,
            )
            children.callback(child.close)
            return child

        yield start


def is_forked(child: Child) -> bool:
    """The words of a title are joined by spaces. A forked child has its server's title until it has read its task."""
    title = Path(f"/proc/{child.pid}/cmdline").read_bytes()
    return b" fork-server" in title or b" --out " in title


class TestForkedChild(ChildContract):
    def test_it_is_a_fork_in_its_own_folder_and_is_used_once(self, start: Start, folder: Path) -> None:
        one, other = start("silent"), start("silent")
        assert is_forked(one)
        assert is_forked(other)
        assert one.pid != other.pid
        line = [*PROGRAM, str(PROGRAMS / "silent.py"), "--out", str(folder), "--events-fd"]
        wait_for(lambda: psutil.Process(one.pid).cmdline()[: len(line)] == line)
        assert Path(f"/proc/{one.pid}/cwd").resolve() == folder


def test_what_a_child_sees_is_what_an_exec_would_give(start: Start, server: ForkServer, folder: Path) -> None:
    seen = []
    for give_up in (False, True):
        child = start("surroundings", give_up=lambda give_up=give_up: give_up)
        read_all(child)
        assert child.close() == ExitStatus(code=0), child.log_tail()
        seen.append((folder / "surroundings.json").read_text())
        server.close()
    assert seen[0] == seen[1]


def test_a_killed_server_is_replaced_and_its_children_go_on(server: ForkServer, start: Start) -> None:
    child = start("mute")
    before = server.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: not alive(before))
    assert is_forked(start("mute"))
    assert server.pid != before
    assert alive(child.pid)


def test_a_server_that_hangs_at_its_start_is_done_without(
    server: ForkServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "IMPORT_SECONDS", 0.1)
    assert not is_forked(start("mute", environment={"HANG": "1"}))
    assert server.pid is None


def test_a_frozen_server_is_done_without_and_replaced(
    server: ForkServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start("mute")
    before = server.pid
    assert before is not None
    os.kill(before, signal.SIGSTOP)
    monkeypatch.setattr(fork_server, "ANSWER_SECONDS", 0.2)
    child = start("obedient", "--epochs", "1")
    assert not is_forked(child)
    assert read_all(child)[-1].type == "finished"
    assert not alive(before)
    monkeypatch.undo()
    assert is_forked(start("mute"))


def test_other_code_or_thread_limits_get_a_server_of_their_own(
    server: ForkServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start("mute")
    servers = [server.pid]
    state = fork_server.code_state()
    monkeypatch.setattr(fork_server, "code_state", lambda: (*state, ("new.py", 1, 1, 1)))
    for threads in ("1", "2"):
        child = start("mute", environment={"OMP_NUM_THREADS": threads})
        assert is_forked(child)
        assert f"OMP_NUM_THREADS={threads}".encode() in Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0")
        servers.append(server.pid)
    assert len(set(servers)) == 3
    assert sum(alive(pid or 0) for pid in servers) == 1


def test_code_that_changes_while_it_is_imported_is_not_used(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(range(1000))
    monkeypatch.setattr(fork_server, "code_state", lambda: (("new.py", next(states), 1, 1),))
    assert not is_forked(start("mute"))


def test_where_it_refuses_it_is_not_asked_again(server: ForkServer, start: Start) -> None:
    seen = set()
    for _ in range(2):
        assert not is_forked(start("mute", environment={"REFUSE": "1"}))
        seen.add(server.pid)
    assert len(seen) == 1


def test_who_cannot_wait_for_it_starts_without(start: Start) -> None:
    assert not is_forked(start("mute", give_up=lambda: True))


def test_little_memory_ends_it(server: ForkServer, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start("mute")
    before = server.pid
    monkeypatch.setattr(fork_server, "MIN_FREE_BYTES", 1 << 60)
    assert not is_forked(start("mute"))
    assert server.pid is None
    assert not alive(before or 0)


def test_it_ends_with_the_workers_socket(server: ForkServer, start: Start) -> None:
    start("mute")
    pid = server.pid
    assert server._connection is not None
    server._connection.close()
    wait_for(lambda: not alive(pid or 0))
