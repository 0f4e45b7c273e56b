"""A child process of `atft up`: in its own session, logged to a file, restarted with exponential backoff, stopped.

The supervising loop is in `client.local.up`. The thread that starts a process must outlive it: on Linux the parent
death signal is sent when that thread exits.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

LOG_BYTES: Final = 50_000_000
LOGS_KEPT: Final = 3
STABLE_SECONDS: Final = 60.0  # a process that ran this long resets the count of failures
MAX_FAILURES: Final = 8  # in a row: about two minutes
MAX_RESTART_DELAY_SECONDS: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class RestartLimitReached(Exception):
    """A process exited too often in a row; the message contains the end of its log."""


@dataclass
class ManagedProcess:
    """One supervised process; `restart_if_exited` is called in a loop."""

    name: str
    command: Sequence[str]
    log: Path
    parent_death_signal: signal.Signals = signal.SIGKILL  # sent to it when this process dies
    pass_fds: tuple[int, ...] = ()
    clock: Callable[[], float] = time.monotonic
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    failures: int = field(default=0, init=False)
    _started: float = field(default=0.0, init=False)
    _restart_at: float = field(default=0.0, init=False)

    def start(self, stdout: int | None = None) -> None:
        """Start the process; stdout goes to the log, or to the file descriptor `stdout`; stderr to the log."""
        parent = os.getpid()

        def bind_to_parent() -> None:
            if _LIBC is not None:
                _LIBC.prctl(_PR_SET_PDEATHSIG, int(self.parent_death_signal))
                if os.getppid() != parent:
                    os._exit(1)

        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output if stdout is None else stdout,
                stderr=output,
                start_new_session=True,  # Ctrl-C must reach only the supervisor, which stops the processes in order
                pass_fds=self.pass_fds,
                preexec_fn=bind_to_parent,  # noqa: PLW1509 - one system call, and there is one thread
            )
        self._started = self.clock()

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def restart_if_exited(self) -> str | None:
        """Restart the process if it exited and its delay is over; returns a message when it has just exited."""
        if self.is_running():
            return None
        now = self.clock()
        if self.process is not None:
            ended = f"{self.name} ended ({_exit_description(self.process.returncode)})"
            self.process = None
            self.failures = 1 if now - self._started > STABLE_SECONDS else self.failures + 1
            if self.failures > MAX_FAILURES:
                raise RestartLimitReached(
                    f"{ended} {self.failures} times in a row; {self.log} ends with:\n{self.log_tail()}"
                )
            delay = min(0.25 * 2.0 ** (self.failures - 1), MAX_RESTART_DELAY_SECONDS)
            self._restart_at = now + delay
            return f"{ended}; restarting in {delay:g} s"
        if now >= self._restart_at:
            self.start()
        return None

    def terminate(self) -> None:
        """Send SIGTERM without waiting."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self, seconds: float) -> bool:
        """Send SIGTERM, and after `seconds` SIGKILL to the process group. Returns False when it had to be killed."""
        if self.process is None:
            return True
        self.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return False
        return True

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) if self.log.exists() else "(nothing)"

    def rotate_log(self, limit_bytes: int = 0) -> None:
        """Rotate the log when it is longer than `limit_bytes`; the last LOGS_KEPT are kept."""
        if not self.log.exists() or self.log.stat().st_size <= limit_bytes:
            return
        for number in range(LOGS_KEPT - 1, 0, -1):
            older = self.log.with_name(f"{self.log.name}.{number}")
            if older.exists():
                older.rename(self.log.with_name(f"{self.log.name}.{number + 1}"))
        previous = self.log.with_name(f"{self.log.name}.1")
        if self.is_running():  # the process holds the file open for appending: copy, then truncate
            previous.write_bytes(self.log.read_bytes())
            os.truncate(self.log, 0)
        else:
            self.log.rename(previous)


def _exit_description(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
