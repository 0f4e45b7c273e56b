"""A child process in a process group of its own: started, its events read, terminated, killed.

Independent of database and jobs. Nothing here blocks for longer than the given timeout, except `close`.
"""

import contextlib
import os
import resource
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil
from pydantic import ValidationError

from atft.events import MAX_LINE_BYTES, AnyEvent, parse
from worker.attempt.fork_server import ForkServer, Request

MAX_LOG_BYTES: Final = 50_000_000
TAIL_BYTES: Final = 65_536
READ_BYTES: Final = 1 << 20


class ProtocolError(Exception):
    """The child violated the protocol of the events pipe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExitStatus:
    """A process's exit code, or the name of the signal that killed it."""

    code: int | None = None
    signal: str | None = None

    def __str__(self) -> str:
        return f"killed by {self.signal}" if self.signal else f"exit code {self.code}"


class Child:
    """A running program. `--events-fd N` is appended to `argv`; `environment` is its whole environment.

    Its stdout and stderr go to the file `log`, at most `max_log_bytes` of it. `memory_bytes` limits its
    private memory (RLIMIT_DATA). It is forked by `fork_server`, or started by exec where there is none, or none is
    ready before `give_up` returns True.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        log: Path,
        max_log_bytes: int = MAX_LOG_BYTES,
        memory_bytes: int | None = None,
        fork_server: ForkServer | None = None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        pipes = [os.pipe() for _ in range(3)]  # (read, write) of standard input, of its output, of its events
        (standard_input, self._stdin), (self._output, output), (self._events, events) = pipes
        theirs = (standard_input, output, events)
        try:
            self.pid, self._reap = _start(argv, environment, cwd, theirs, fork_server, give_up)
        except BaseException:
            for descriptor in (self._stdin, self._output, self._events):
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        if memory_bytes is not None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self.pid, resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        self._exit: ExitStatus | None = None
        self._events_open = True
        self._pending = b""
        self._last_seq = 0
        os.set_blocking(self._events, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._events, selectors.EVENT_READ)
        self._stdin_open = True
        os.set_blocking(self._stdin, False)
        self._log = _Log(os.fdopen(self._output, "rb", buffering=0), log, max_log_bytes)

    def events(self, timeout_seconds: float) -> list[AnyEvent]:
        """The events since the last call, waiting at most `timeout_seconds` for the first one.

        Raises ProtocolError for a line that is no event, is too long, or is not the next in sequence. An
        incomplete last line, cut off by a kill, is dropped.
        """
        if not self._events_open:
            self.wait(timeout_seconds)
            return []
        if not self._selector.select(timeout_seconds):
            return []
        data = os.read(self._events, READ_BYTES)
        if not data:
            self._close_events()
            return []
        *lines, self._pending = (self._pending + data).split(b"\n")
        if len(self._pending) > MAX_LINE_BYTES:
            raise ProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes, beginning {self._pending[:200]!r}")
        return [self._parse(line) for line in lines]

    def _parse(self, line: bytes) -> AnyEvent:
        try:
            event = parse(line)
        except ValidationError as error:
            raise ProtocolError(f"{error.errors()[0]['msg']}: {line[:200]!r}") from error
        if event.child_seq != self._last_seq + 1:
            raise ProtocolError(f"child_seq {event.child_seq} after {self._last_seq}: {line[:200]!r}")
        self._last_seq = event.child_seq
        return event

    @property
    def events_closed(self) -> bool:
        """True once the child has closed its events pipe, so that no event can follow."""
        return not self._events_open

    def renew(self) -> None:
        """Write one lease renewal line to the child's stdin; never blocks, whether or not the child reads it."""
        if self._stdin_open:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._stdin, b"\n")

    def terminate(self) -> None:
        """Send SIGTERM to the program: finish the step, save a checkpoint, emit Stopped."""
        self._signal(signal.SIGTERM)

    def dump_stacks(self) -> None:
        """Send SIGUSR1: the program dumps the stacks of its threads to the log."""
        self._signal(signal.SIGUSR1)

    def _signal(self, number: signal.Signals) -> None:
        if not self.exited():  # the pid is ours until it is reaped, and `exited` does not reap
            os.kill(self.pid, number)

    def exited(self) -> bool:
        """True once the program has exited. It is not reaped here, so that its pid still names its process group."""
        if self._exit is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self, timeout_seconds: float) -> ExitStatus | None:
        """The exit status, or None when still running after `timeout_seconds`. Survivors in its group are killed."""
        deadline = time.monotonic() + timeout_seconds
        pause = 0.002
        while not self.exited():
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(2 * pause, 0.05)
        if self._exit is None:
            self._kill_group()
            code = self._reap()
            self._exit = ExitStatus(code=code) if code >= 0 else ExitStatus(signal=signal.Signals(-code).name)
        return self._exit

    def kill(self) -> None:
        """Send SIGKILL to the whole process group."""
        if self._exit is None:
            self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait_for_group_exit(self, timeout_seconds: float) -> bool:
        """Wait until no process of the group is left (zombies do not count); False on timeout."""
        deadline = time.monotonic() + timeout_seconds
        while _live_processes(self.pid):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def log_tail(self, max_bytes: int = 4000) -> str:
        """The end of the program's stdout and stderr, as text without NUL, which Postgres refuses."""
        return self._log.tail(max_bytes).replace("\0", "\ufffd")

    def close(self) -> ExitStatus:
        """Kill the process group, reap the child, and close every descriptor."""
        self.kill()
        exit_status = self.wait(30.0)
        if exit_status is None:
            raise RuntimeError(f"process {self.pid} outlived SIGKILL for 30 s (a hung device or file system?)")
        self._log.finish()
        self._close_events()
        if self._stdin_open:
            self._stdin_open = False
            os.close(self._stdin)
        return exit_status

    def _close_events(self) -> None:
        if self._events_open:
            self._events_open = False
            self._selector.close()
            os.close(self._events)


def _start(
    argv: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path,
    pipes: tuple[int, int, int],
    fork_server: ForkServer | None,
    give_up: Callable[[], bool],
) -> tuple[int, Callable[[], int]]:
    """The pid of the program, and a function that waits for it and returns its exit code, or minus its signal."""
    standard_input, output, events = pipes
    if fork_server is not None and (arguments := fork_server.arguments_of(argv)) is not None:
        request = Request(
            arguments=arguments,
            environment=environment,
            folder=cwd,
            standard_input=standard_input,
            output=output,
            events=events,
        )
        pid = fork_server.fork(request, give_up)
        if pid is not None:
            return pid, lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    process = subprocess.Popen(
        [*argv, "--events-fd", str(events)],
        stdin=standard_input,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        cwd=cwd,
        pass_fds=(events,),
        start_new_session=True,
    )
    return process.pid, process.wait


class _Log:
    """Copies the program's output to a file of bounded size; of longer output the last 64 KB are appended."""

    def __init__(self, source: IO[bytes], path: Path, max_bytes: int) -> None:
        self._source = source
        self._path = path
        self._max_bytes = max_bytes
        self._recent = b""
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._copy, name="child-log", daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        written = dropped = 0
        with self._path.open("ab", buffering=0) as file:
            while data := os.read(self._source.fileno(), TAIL_BYTES):
                with self._lock:
                    self._recent = (self._recent + data)[-TAIL_BYTES:]
                kept = data[: self._max_bytes - written]
                dropped += len(data) - len(kept)
                if kept and not self._write(file, kept):
                    dropped += len(kept)
                written += len(kept)
            if dropped:
                notice = f"\n[log truncated: {dropped} bytes left out; the last {TAIL_BYTES} follow]\n"
                self._write(file, notice.encode())
                self._write(file, self._recent[-dropped:])

    @staticmethod
    def _write(file: IO[bytes], data: bytes) -> bool:
        try:
            file.write(data)
        except OSError:  # a full disk must not block the program on its own output: the tail stays in memory
            return False
        return True

    def tail(self, max_bytes: int) -> str:
        with self._lock:
            return self._recent[-max_bytes:].decode(errors="replace")

    def finish(self) -> None:
        self._thread.join(2.0)  # a process that left the group may hold the pipe open: do not wait for it
        if not self._thread.is_alive():
            self._source.close()


def _live_processes(pgid: int) -> list[int]:
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            exit_status = process.info["status"] in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            if not exit_status and os.getpgid(process.pid) == pgid:
                found.append(process.pid)
    return found
