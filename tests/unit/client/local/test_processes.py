"""Supervision of a process: real processes and a fake clock."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client.local.processes import MAX_FAILURES, ManagedProcess, RestartLimitReached

SLEEP = ("sleep", "60")


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def program(tmp_path: Path, *command: str, clock: Clock | None = None) -> ManagedProcess:
    return ManagedProcess("thing", command or SLEEP, tmp_path / "thing.log", clock=clock or Clock())


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_output_goes_to_the_log_and_stop_ends_the_process(tmp_path: Path) -> None:
    thing = program(tmp_path, "sh", "-c", "echo hello; exec sleep 60")
    thing.start()
    try:
        end = time.monotonic() + 5
        while thing.log_tail() != "hello" and time.monotonic() < end:
            time.sleep(0.01)
        assert thing.is_running()
    finally:
        assert thing.stop(5)
    assert thing.log_tail() == "hello"
    assert not thing.is_running()


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    thing = program(tmp_path, "sh", "-c", "trap '' TERM; sleep 61 & echo $!; wait; sleep 60")
    thing.start()
    end = time.monotonic() + 5
    while not thing.log_tail() and time.monotonic() < end:
        time.sleep(0.01)
    assert not thing.stop(0.1)
    end = time.monotonic() + 5  # a killed grandchild is reaped by init
    while not gone(int(thing.log_tail())) and time.monotonic() < end:
        time.sleep(0.01)
    assert gone(int(thing.log_tail()))


def test_an_exited_process_restarts_with_growing_delays(tmp_path: Path) -> None:
    clock = Clock()
    thing = program(tmp_path, "false", clock=clock)
    thing.start()
    pauses = []
    for _ in range(3):
        assert thing.process is not None
        thing.process.wait()
        line = thing.restart_if_exited()
        assert line is not None
        assert "exit code 1" in line
        before = clock.time
        while thing.process is None:
            assert thing.restart_if_exited() is None
            clock.time += 0.125
        pauses.append(clock.time - before)
    thing.stop(5)
    assert pauses == sorted(pauses)
    assert pauses[-1] > 2 * pauses[0]


def test_too_many_failures_raise_with_the_end_of_the_log(tmp_path: Path) -> None:
    clock = Clock()
    thing = program(tmp_path, "sh", "-c", "echo no such table; exit 3", clock=clock)
    thing.start()

    def wait_and_restart() -> None:
        while True:
            if thing.process is not None:
                thing.process.wait()
            thing.restart_if_exited()
            clock.time += 31

    with pytest.raises(RestartLimitReached, match=r"(?s)exit code 3.*no such table"):
        wait_and_restart()
    assert thing.failures == MAX_FAILURES + 1


def test_a_long_run_resets_the_failure_count(tmp_path: Path) -> None:
    clock = Clock()
    thing = program(tmp_path, clock=clock)
    thing.failures = 5
    thing.start()
    clock.time = 61
    assert thing.process is not None
    thing.process.kill()
    thing.process.wait()
    line = thing.restart_if_exited()
    assert line is not None
    assert "SIGKILL" in line
    assert thing.failures == 1


def test_logs_are_kept_in_a_bounded_number(tmp_path: Path) -> None:
    thing = program(tmp_path)
    for number in range(6):
        thing.log.write_text(f"{number}")
        thing.rotate_log()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "thing.log.1": "5",
        "thing.log.2": "4",
        "thing.log.3": "3",
    }


def test_a_log_that_is_being_written_is_emptied_in_place(tmp_path: Path) -> None:
    thing = program(tmp_path, "sh", "-c", "echo first; read line < fifo; echo second; exec sleep 60")
    os.mkfifo(tmp_path / "fifo")
    thing.command = ("sh", "-c", f"cd {tmp_path}; {thing.command[2]}")
    thing.start()
    try:
        while thing.log_tail() != "first":
            time.sleep(0.01)
        thing.rotate_log(limit_bytes=1)
        (tmp_path / "fifo").write_text("\n")
        end = time.monotonic() + 5
        while thing.log_tail() != "second" and time.monotonic() < end:
            time.sleep(0.01)
        assert thing.log.read_bytes() == b"second\n"
        assert (tmp_path / "thing.log.1").read_text() == "first\n"
    finally:
        thing.stop(5)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_is_killed_when_its_parent_is_killed(tmp_path: Path) -> None:
    keeper = f"""
import time
from pathlib import Path
from client.local.processes import ManagedProcess
thing = ManagedProcess("thing", ("sleep", "62"), Path({str(tmp_path)!r}) / "thing.log")
thing.start()
print(thing.process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", keeper], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert not gone(pid)
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 5
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert gone(pid)
