"""The worker's side of the fork server: started for one environment and one state of the code, asked for children.

Whatever goes wrong with it, the caller starts its program by exec: a fork only saves the seconds of the imports.
"""

import contextlib
import ctypes
import logging
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import atft
from atft.fork_server import READY, Task
from atft.memory import free_and_total

MIN_FREE_BYTES: Final = 2 << 30  # with less, the memory of an idle server belongs to a job
ANSWER_SECONDS: Final = 5.0
EXIT_SECONDS: Final = 10.0
PR_SET_CHILD_SUBREAPER: Final = 36
CodeState = tuple[tuple[str, int, int, int], ...]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A child to fork: its command line without the program, its whole environment, its folder, and its ends of three
    pipes.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    standard_input: int
    output: int
    events: int


class ForkServer:
    """At most one process `python -m atft fork-server`, replaced when the environment or the code changes. `program` is
    the command line before the name of the command.
    """

    def __init__(self, program: Sequence[str]) -> None:
        self.program = tuple(program)
        self._process: subprocess.Popen[bytes] | None = None
        self.connection: socket.socket | None = None
        self._key: tuple[dict[str, str], CodeState] | None = None
        self._ready = False

    @property
    def pid(self) -> int | None:
        """The server's process id, of an idle or a starting one."""
        return None if self._process is None else self._process.pid

    def arguments_of(self, argv: Sequence[str]) -> tuple[str, ...] | None:
        """`argv` without the program; null for another program."""
        size = len(self.program)
        return tuple(argv[size:]) if tuple(argv[:size]) == self.program else None

    def prepare(self, environment: Mapping[str, str]) -> None:
        """Start a server for later children of this environment, unless one is there; returns at once. Without much
        memory left there is none.
        """
        if sys.platform != "linux":
            return
        if free_and_total()[0] < MIN_FREE_BYTES:
            self.close()
            return
        key = (_without_scratch(environment), code_state())
        if self._process is not None and self._process.poll() is None and self._key == key:
            return
        self.close()
        try:
            _become_subreaper()
            self.connection, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [*self.program, "fork-server"],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=key[0],
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as error:
            logger.warning("there is no fork server: %s", error)
            self.close()
        self._key = key

    def fork(self, request: Request) -> int | None:
        """The pid of a child of this process that does what `request` says; null when no server is ready for it."""
        if not self.is_ready(request.environment):
            return None
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                descriptors = [request.standard_input, request.output, request.events, theirs.fileno()]
                try:
                    assert self.connection is not None  # noqa: S101 - a server that is ready has one
                    socket.send_fds(self.connection, [b"\n"], descriptors)
                except OSError:
                    self.close()
                    return None
            pid = _read_pid(ours)
            if pid is None:  # frozen, killed or starved: its child, if there is one, reads the end of `ours`, and exits
                logger.warning("the fork server did not answer: the program is started without it")
                self.close()
                return None
            task = Task(
                arguments=tuple(request.arguments),
                folder=str(request.folder),
                scratch_folder=request.environment.get("TMPDIR", ""),
            )
            with contextlib.suppress(BrokenPipeError):  # killed already: the caller sees its exit
                ours.sendall(task.model_dump_json().encode() + b"\n")
            return pid

    def close(self) -> None:
        """Kill the server, if there is one. Its children go on."""
        if self.connection is not None:
            self.connection.close()
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel
                self._process.wait(EXIT_SECONDS)
        self._process = self.connection = self._key = None
        self._ready = False

    def is_ready(self, environment: Mapping[str, str]) -> bool:
        """True when a child for this environment, with the code as it is now, can be forked."""
        if self.connection is None or self._process is None or self._process.poll() is not None:
            return False
        if self._key != (_without_scratch(environment), code_state()):
            return False
        if not self._ready and select.select([self.connection], [], [], 0)[0]:
            self._ready = self.connection.recv(len(READY)) == READY
        return self._ready


def _without_scratch(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name != "TMPDIR"}


def code_state() -> CodeState:
    """Name, inode, size and time of each of our modules and of the folders of packages: another state means that a
    server has other code than a new program would load.
    """
    package = Path(atft.__file__).parent
    files = [*package.rglob("*.py"), *(Path(entry) for entry in sys.path if entry.endswith("site-packages"))]
    found = []
    for file in sorted(files):
        with contextlib.suppress(FileNotFoundError):  # replaced at this moment
            about = file.stat()
            found.append((str(file), about.st_ino, about.st_size, about.st_mtime_ns))
    return tuple(found)


def _become_subreaper() -> None:
    """Have the kernel make orphans below this process its children: it reaps those of the fork server."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _read_pid(channel: socket.socket) -> int | None:
    """The pid that a child sends; null when none comes in time."""
    deadline, line = time.monotonic() + ANSWER_SECONDS, b""
    while not line.endswith(b"\n"):
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data = channel.recv(32)
        except TimeoutError:
            return None
        except OSError:
            return None
        if not data:
            return None
        line += data
    return int(line)
