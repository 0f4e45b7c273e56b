"""The worker's side of the fork server: started for one environment and one state of the code, asked for children.

Whatever goes wrong with it, the caller starts its program by exec: a fork only saves the seconds of the imports.
"""

import contextlib
import logging
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import atft
from atft.fork_server import READY, ROOM, Task
from atft.lease import prctl
from atft.memory import free_and_total

MIN_FREE_BYTES: Final = 2 << 30  # with less, the memory of an idle server belongs to a job
ANSWER_SECONDS: Final = 5.0
EXIT_SECONDS: Final = 10.0
IMPORT_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.1
PR_SET_CHILD_SUBREAPER: Final = 36
CodeState = tuple[tuple[str, int, int, int], ...]
Key = tuple[dict[str, str], CodeState]
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
        self._connection: socket.socket | None = None
        self._key: Key | None = None
        self._is_ready = False

    @property
    def pid(self) -> int | None:
        """The server's process id, null where there is none."""
        return None if self._process is None else self._process.pid

    def arguments_of(self, argv: Sequence[str]) -> tuple[str, ...] | None:
        """`argv` without the program; null for another program."""
        size = len(self.program)
        return tuple(argv[size:]) if tuple(argv[:size]) == self.program else None

    def fork(self, request: Request, give_up: Callable[[], bool] = lambda: False) -> int | None:
        """The pid of a child of this process that does what `request` says, forked by a server that has its environment
        and code, which is started first where there is none. Null when there can be none, or after `give_up`.
        """
        key = (_without_scratch(request.environment), code_state())
        if not self._start(key):
            return None
        was_ready = self._is_ready
        if not self._wait(give_up):
            return None
        if not was_ready and code_state() != key[1]:  # changed while the server imported it
            self.close()
            return None
        pid = self._ask(request)
        if pid is None:  # frozen, killed or starved: its child, if there is one, reads no task, and exits
            logger.warning("the fork server does not answer: the program is started without it")
            self.close()
        return pid

    def close(self) -> None:
        """Kill the server, if there is one. Its children go on."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel
                self._process.wait(EXIT_SECONDS)
        self._process = self._connection = self._key = None
        self._is_ready = False

    def _start(self, key: Key) -> bool:
        """Have a server for `key`, perhaps one that still imports; False where there can be none."""
        if sys.platform != "linux":
            return False
        if free_and_total()[0] < MIN_FREE_BYTES:
            self.close()
            return False
        if self._key == key and self._process is not None:
            if self._process.poll() is None:
                return True
            if not self._is_ready:  # it refused, and would again
                return False
        self.close()
        self._key = key
        try:
            # Orphans below this process become its children: it reaps those of the fork server.
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            self._connection, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [*self.program, "fork-server", ROOM],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=key[0],
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as error:
            logger.warning("there is no fork server: %s", error)
            self.close()
            return False
        return True

    def _wait(self, give_up: Callable[[], bool]) -> bool:
        """True once the server's imports are done; False when it ends, hangs, or `give_up` returns True."""
        deadline = time.monotonic() + IMPORT_SECONDS
        while not self._is_ready:
            if give_up():
                return False
            if time.monotonic() > deadline:
                self.close()
                return False
            connection = self._connected()
            if select.select([connection], [], [], POLL_SECONDS)[0]:
                if connection.recv(len(READY)) != READY:
                    logger.warning("the fork server ended at its start: programs are started without it")
                    return False
                self._is_ready = True
        return True

    def _ask(self, request: Request) -> int | None:
        """Ask for a child and give it its task; null when none answers."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                descriptors = [request.standard_input, request.output, request.events, theirs.fileno()]
                try:
                    socket.send_fds(self._connected(), [b"\n"], descriptors)
                except OSError:
                    return None
            pid = _read_pid(ours)
            if pid is None:
                return None
            task = Task(
                arguments=tuple(request.arguments),
                folder=str(request.folder),
                scratch_folder=request.environment.get("TMPDIR", ""),
            )
            with contextlib.suppress(BrokenPipeError):  # killed already: the caller sees its exit
                ours.sendall(task.model_dump_json().encode() + b"\n")
            return pid

    def _connected(self) -> socket.socket:
        assert self._connection is not None  # noqa: S101 - there is a server
        return self._connection


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


def _read_pid(channel: socket.socket) -> int | None:
    """The pid that a child sends; null when none comes in time."""
    deadline, line = time.monotonic() + ANSWER_SECONDS, b""
    while not line.endswith(b"\n"):
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data = channel.recv(32)
        except OSError:  # a timeout, too
            return None
        if not data:
            return None
        line += data
    return int(line)
