"""The child protocol, tested with programs that follow it and programs that break it."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from atft.events import AnyEvent, Finished, Started, Stopped
from worker.attempt.child import Child, ExitStatus, ProtocolError

Start = Callable[..., Child]
PROGRAMS = Path(__file__).parents[3] / "programs"


def read_events(child: Child, until: Callable[[AnyEvent], bool], seconds: float = 60.0) -> list[AnyEvent]:
    heard: list[AnyEvent] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not child.events_closed:
        events = child.events(0.1)
        heard += events
        if any(until(event) for event in events):
            return heard
    return heard


def read_all(child: Child) -> list[AnyEvent]:
    return read_events(child, lambda _: False)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class ChildContract:
    """Subclasses give a fixture `start(program, *arguments, **options)`; its --out and log.txt are in `folder`."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path

    def test_a_successful_child_emits_every_event_and_exits_with_0(self, start: Start) -> None:
        child = start("obedient", "--epochs", "2", "--epoch-seconds", "0.01")
        events = read_all(child)
        assert isinstance(events[0], Started)
        assert events[0].pid == child.pid
        assert isinstance(events[-1], Finished)
        assert [event.child_seq for event in events] == list(range(1, len(events) + 1))
        assert child.wait(30) == ExitStatus(code=0)

    def test_it_leads_its_own_group_and_session(self, start: Start) -> None:
        child = start("silent")
        assert os.getpgid(child.pid) == child.pid == os.getsid(child.pid)

    def test_a_stop_request_ends_with_a_saved_checkpoint(self, start: Start) -> None:
        child = start("obedient", "--epoch-seconds", "60")
        read_events(child, lambda event: event.type == "progress")
        child.terminate()
        last = read_all(child)[-1]
        assert isinstance(last, Stopped)
        assert last.checkpoint == "checkpoints/epoch-0"
        assert child.wait(30) == ExitStatus(code=0)

    def test_a_crash_is_seen_with_its_code(self, start: Start) -> None:
        child = start("crashing", "--code", "7")
        assert [event.type for event in read_all(child)] == ["started", "progress"]
        assert child.wait(30) == ExitStatus(code=7)
        child.close()
        assert "last words on stderr" in child.log_tail()

    def test_a_signal_is_named(self, start: Start) -> None:
        child = start("crashing", "--signal", "SIGSEGV")
        read_all(child)
        assert child.wait(30) == ExitStatus(signal="SIGSEGV")

    def test_a_silent_child_times_out_and_dumps_its_stacks(self, start: Start, folder: Path) -> None:
        child = start("silent")
        read_events(child, lambda event: event.type == "progress")
        began = time.monotonic()
        assert child.events(0.1) == []
        assert time.monotonic() - began < 30
        assert child.wait(0.05) is None
        assert not child.events_closed
        child.dump_stacks()
        deadline = time.monotonic() + 30
        while "hang" not in child.log_tail() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "in hang" in (folder / "log.txt").read_text()

    def test_pain_05_a_kill_ends_the_whole_group_and_only_it(self, start: Start, folder: Path) -> None:
        other = start("silent")
        child = start("stubborn")
        read_events(child, lambda event: event.type == "progress")
        grandchild = int((folder / "grandchild").read_text())
        child.terminate()
        assert child.wait(0.2) is None
        assert alive(grandchild)
        child.kill()
        assert child.wait(30) == ExitStatus(signal="SIGKILL")
        assert child.wait_for_group_exit(30)
        assert not alive(grandchild)
        assert not other.exited()

    def test_remaining_processes_of_a_finished_child_are_killed(self, start: Start, folder: Path) -> None:
        child = start("forking")
        assert read_events(child, lambda event: event.type == "finished")[-1].type == "finished"
        assert child.wait(30) == ExitStatus(code=0)
        assert child.wait_for_group_exit(30)
        assert not alive(int((folder / "grandchild").read_text()))

    @pytest.mark.parametrize(
        "line", ["loss: 0.3", "{}", '{"type": "started"}', '{"type":"log","child_seq":2,"message":1}']
    )
    def test_a_line_that_is_no_event_is_an_error_that_quotes_it(self, start: Start, line: str) -> None:
        child = start("garbage", "--line", line)
        with pytest.raises(ProtocolError) as caught:
            read_events(child, lambda event: event.type == "finished")
        assert line in str(caught.value)

    def test_a_repeated_number_is_an_error(self, start: Start) -> None:
        child = start("garbage", "--repeat")
        with pytest.raises(ProtocolError, match="child_seq 1 after 1"):
            read_all(child)

    def test_a_line_without_end_is_an_error(self, start: Start) -> None:
        child = start("garbage", "--long")
        with pytest.raises(ProtocolError, match="more than"):
            read_all(child)

    def test_lease_renewals_reach_the_child(self, start: Start, folder: Path) -> None:
        child = start("obedient", "--epoch-seconds", "60")
        read_events(child, lambda event: event.type == "progress")
        child.renew()
        deadline = time.monotonic() + 30
        while not (folder / "renewals").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (folder / "renewals").exists()

    def test_lease_renewals_never_block(self, start: Start) -> None:
        child = start("silent")
        began = time.monotonic()
        for _ in range(100_000):
            child.renew()
        assert time.monotonic() - began < 30
        child.kill()
        child.wait(30)
        child.renew()

    def test_the_log_is_bounded_and_keeps_its_end(self, start: Start, folder: Path) -> None:
        child = start("chatty", "--bytes", "500000", max_log_bytes=10_000)
        read_all(child)
        child.close()
        log = (folder / "log.txt").read_text()
        assert len(log) < 10_000 + 65_536 + 200
        assert "log truncated" in log
        assert log.endswith("the very last line\n")

    def test_pain_07_output_is_on_disk_while_it_runs(self, start: Start, folder: Path) -> None:
        child = start("obedient", "--epoch-seconds", "60")
        read_events(child, lambda event: event.type == "progress")
        deadline = time.monotonic() + 30
        while not (folder / "log.txt").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not child.exited()
        assert "training from epoch 0" in (folder / "log.txt").read_text()

    def test_closing_a_running_child_kills_it(self, start: Start) -> None:
        child = start("mute")
        assert child.close() == ExitStatus(signal="SIGKILL")
        assert child.events(0.0) == []


class TestChild(ChildContract):
    @pytest.fixture
    def start(self, folder: Path) -> Iterator[Start]:
        with ExitStack() as children:

            def start(program: str, *arguments: str, **options: int) -> Child:
                argv = [sys.executable, "-SE", str(PROGRAMS / f"{program}.py"), "--out", str(folder), *arguments]
                child = Child(argv, environment={"OMP_NUM_THREADS": "1"}, cwd=folder, log=folder / "log.txt", **options)
                children.callback(child.close)
                return child

            yield start

    def test_a_missing_program_leaks_no_file_descriptor(self, folder: Path) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(FileNotFoundError):
            Child(["/no/such/program"], environment={}, cwd=folder, log=folder / "log.txt")
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_pain_02_the_environment_is_exactly_what_was_given(self, start: Start) -> None:
        child = start("mute")
        assert Path(f"/proc/{child.pid}/environ").read_bytes() == b"OMP_NUM_THREADS=1\0"


def test_a_child_cannot_allocate_beyond_its_memory_limit(tmp_path: Path) -> None:
    code = "import sys\ntry:\n    bytearray(1 << 30)\nexcept MemoryError:\n    sys.exit(7)"
    argv = (sys.executable, "-SE", "-c", code)
    child = Child(argv, environment={}, cwd=tmp_path, log=tmp_path / "log.txt", memory_bytes=256 << 20)
    try:
        assert child.wait(20) == ExitStatus(code=7)
    finally:
        child.close()
