"""The fork server: a process that has imported what training needs and forks a child for each job.

`python -m atft fork-server` is started by a worker, with a Unix socket as its standard input, and writes a line there
once its imports are done. Each request is one byte with four descriptors: the child's standard input, its output, its
events pipe, and a socket of its own, over which the child answers with its pid and then reads its `Task`. The child is
the worker's own child, not the server's: the process between them exits at once, and the worker is a subreaper
(prctl(2)). It differs from a program started by exec in nothing but the seconds that its imports took.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import os
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from atft.spec.base import Spec

READY: Final = b"ready\n"
NUM_DESCRIPTORS: Final = 4
ADOPTION_SECONDS: Final = 5.0
NO_TASK: Final = 75  # the exit code of a child that was given nothing to do
IMPORTS: Final = (  # by name, since the worker, which imports this module, must not load torch
    "atft.train.loop",
    "atft.train.prediction",
    "pyarrow.parquet",
    "statsmodels.stats.sandwich_covariance",
    "torch._dynamo",  # by the first optimizer
)
ROOM: Final = " " * 3000  # the last argument of a server: a place for the command lines of its children
# jemalloc takes care of its own threads at a fork; polars, which statsmodels loads, is not used by a training.
HARMLESS_THREADS: Final = frozenset({"jemalloc_bg_thd", "polars-ooc-clea"})
Main = Callable[[Sequence[str]], int]


class Task(Spec):
    """The command line of one child, without the program, and the folders that it works in."""

    arguments: tuple[str, ...]
    folder: str
    scratch_folder: str


class CannotFork(Exception):
    """This process must not be forked; the message says why."""


def serve(main: Main, imports: Sequence[str] = IMPORTS) -> int:
    """Serve requests until the worker closes the socket; returns 0 then. A child exits with what `main` returns. Raises
    CannotFork.
    """
    worker = os.getppid()
    connection = socket.socket(fileno=os.dup(0))
    program = sys.orig_argv[: -len(sys.argv[1:])]
    show_command_line([*program, "fork-server"])
    preload(imports)
    check_can_fork()
    gc.collect()
    gc.freeze()  # so that a collection in a child does not copy the pages that it shares with this process
    connection.sendall(READY)
    while True:
        request, descriptors, *_ = socket.recv_fds(connection, 1, NUM_DESCRIPTORS)
        if not request:
            return 0
        if _fork() == 0:
            if _fork() != 0:
                os._exit(0)
            connection.close()
            _exit(_run(main, program, descriptors, worker))
        os.wait()
        for descriptor in descriptors:
            os.close(descriptor)


def preload(names: Sequence[str]) -> None:
    """Import modules, but for those whose system library is absent (LightGBM needs libgomp): a child reports that."""
    for name in names:
        with contextlib.suppress(OSError):
            importlib.import_module(name)


def show_command_line(words: Sequence[str]) -> None:
    """Have `ps` show these words as this process's command line, as far as there is `ROOM` for them: a forked child
    would look like its server. The words take the place of the arguments on the stack, as setproctitle(3) does it; a
    last byte that is not 0 says so to the kernel.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end
    if end - start < len(ROOM):  # started by hand
        return
    text = " ".join(words).encode()[: end - start - 2]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))
    ctypes.memset(end - 1, 1, 1)


def check_can_fork() -> None:
    """Raises CannotFork when a thread could hold a lock that no child would ever get, or when the CUDA driver is
    loaded, which does not survive a fork.
    """
    names = {(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()}
    own = Path("/proc/self/comm").read_text().strip()
    if unknown := names - HARMLESS_THREADS - {own}:
        raise CannotFork(f"the imports started threads: {', '.join(sorted(unknown))}")
    if "libcuda.so" in Path("/proc/self/maps").read_text():
        raise CannotFork("the imports loaded the CUDA driver")


def _fork() -> int:
    with warnings.catch_warnings():  # Python 3.12 warns of every thread, also of those that are harmless
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _exit(code: int) -> NoReturn:
    """End a child as its interpreter would, but without destroying each object: that copies every page that the child
    shares with the server, which takes longer than the fork.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(main: Main, program: Sequence[str], descriptors: Sequence[int], worker: int) -> int:
    """The child: become the worker's, say so, read the task and do it."""
    standard_input, output, events, control = descriptors
    deadline = time.monotonic() + ADOPTION_SECONDS
    while os.getppid() != worker:  # until the process between them has exited
        if time.monotonic() > deadline:
            os._exit(NO_TASK)
        time.sleep(0.0005)
    os.setsid()
    os.dup2(standard_input, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(standard_input)
    os.close(output)
    with socket.socket(fileno=control) as channel, channel.makefile("rb") as lines:
        channel.sendall(f"{os.getpid()}\n".encode())
        line = lines.readline()
    if not line:  # the worker waits no more, or is gone
        os._exit(NO_TASK)
    task = Task.model_validate_json(line)
    os.chdir(task.folder)
    os.environ["TMPDIR"] = task.scratch_folder  # noqa: TID251 - as an exec would have set it
    tempfile.tempdir = None
    arguments = [*task.arguments, "--events-fd", str(events)]
    sys.argv[1:] = arguments
    show_command_line([*program, *arguments])
    return main(arguments)
