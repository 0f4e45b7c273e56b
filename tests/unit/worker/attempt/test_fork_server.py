"""The fork server: its children keep the child protocol; whatever happens to it, programs are started without it."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

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
    server.prepare(ENVIRONMENT)
    wait_for(lambda: server.is_ready(ENVIRONMENT))
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def start(server: ForkServer, folder: Path) -> Iterator[Start]:
    with ExitStack() as children:

        def start(program: str, *arguments: str, environment: dict[str, str] | None = None, **options: int) -> Child:
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
    return b"fork-server" in Path(f"/proc/{child.pid}/cmdline").read_bytes()


class TestForkedChild(ChildContract):
    def test_it_is_a_fork_in_its_own_folder_and_is_used_once(self, start: Start, folder: Path) -> None:
        one, other = start("silent"), start("silent")
        assert is_forked(one)
        assert is_forked(other)
        assert one.pid != other.pid
        assert Path(f"/proc/{one.pid}/cwd").resolve() == folder


def test_what_a_child_sees_is_what_an_exec_would_give(start: Start, server: ForkServer, folder: Path) -> None:
    seen = {}
    for name in ("forked", "started"):
        child = start("surroundings")
        read_all(child)
        assert child.close() == ExitStatus(code=0), child.log_tail()
        seen[name] = (folder / "surroundings.json").read_text()
        server.close()
    assert seen["forked"] == seen["started"]


def kill(server: ForkServer, _: pytest.MonkeyPatch) -> None:
    os.kill(server.pid or 0, signal.SIGKILL)


def freeze(server: ForkServer, _: pytest.MonkeyPatch) -> None:
    os.kill(server.pid or 0, signal.SIGSTOP)


def change_the_code(_: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fork_server.code_state()
    monkeypatch.setattr(fork_server, "code_state", lambda: (*before, ("new.py", 1, 1, 1)))


@pytest.mark.parametrize("harm", [kill, freeze, change_the_code])
def test_a_harmed_or_outdated_server_is_done_without_and_replaced(
    server: ForkServer,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[ForkServer, pytest.MonkeyPatch], None],
) -> None:
    monkeypatch.setattr(fork_server, "ANSWER_SECONDS", 0.3)
    before = server.pid
    harm(server, monkeypatch)
    child = start("obedient", "--epochs", "1")
    assert not is_forked(child)
    assert read_all(child)[-1].type == "finished"
    server.prepare(ENVIRONMENT)
    wait_for(lambda: server.is_ready(ENVIRONMENT))
    assert server.pid != before
    assert not alive(before or 0)
    assert is_forked(start("silent"))


def test_other_thread_limits_get_no_child_of_this_server(start: Start) -> None:
    assert not is_forked(start("silent", environment={"OMP_NUM_THREADS": "2"}))


def test_little_memory_ends_it(server: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = server.pid
    monkeypatch.setattr(fork_server, "MIN_FREE_BYTES", 1 << 60)
    server.prepare(ENVIRONMENT)
    assert server.pid is None
    assert not alive(before or 0)


def test_a_child_that_got_no_task_exits(server: ForkServer, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "ANSWER_SECONDS", 0.0)  # asked for, and given up at once
    child = start("obedient", "--epochs", "1")
    events = read_all(child)
    assert [event.type for event in events].count("started") == 1
    assert child.wait(30) == ExitStatus(code=0)


def test_it_ends_with_its_worker(server: ForkServer) -> None:
    assert server.connection is not None
    server.connection.close()
    wait_for(lambda: not alive(server.pid or 0))
