"""Command line of the worker's child process: `python -m atft run | ensemble | pretrain | preflight | predict |
baselines | build | inspect | bench`. It also runs without the service.

Writes events as one JSON object a line to `--events-fd`, everything else to stderr. Exit codes: 0 after a `finished`
or `stopped` event, 1 after a `failed` event, 2 for wrong usage, 75 when its lease has expired.
"""

import argparse
import errno
import faulthandler
import json
import os
import platform
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, NoReturn, TypeVar, get_args

from pydantic import ValidationError

from atft import fork_server
from atft.events import Event, Evidence, Failed, Finished, Started, Stopped
from atft.evidence.models import BuildEvidence, DroppedRowsEvidence
from atft.lease import die_with_parent, watch_lease
from atft.spec.base import Spec
from atft.spec.baselines import BaselinesSpec
from atft.spec.data import DatasetSpec, PlantedMode
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec
from atft.spec.kinds import KINDS
from atft.spec.prediction import PredictSpec
from atft.spec.reason import Reason
from atft.spec.study import PreflightSpec

FAILED: Final = 1
USAGE: Final = 2
SPECS: Final[dict[str, type[Spec]]] = {kind.command[0]: kind.spec for kind in KINDS.values() if kind.command}
KNOWN_ERRORS: Final = {  # by name, as their modules load slowly
    "CacheError": Reason.DATA_CHANGED,
    "CacheMismatch": Reason.DATA_CHANGED,
    "PanicException": Reason.INVALID_PARAMS,  # of polars, on values that it does not expect
}
S = TypeVar("S", bound=Spec)
T = TypeVar("T")


class EventStream:
    """Writes events to a file descriptor, numbered from 1, each as one whole line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seq = 0
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._seq += 1
            line = event.model_copy(update={"child_seq": self._seq}).model_dump_json().encode() + b"\n"
            while line:
                line = line[os.write(self._descriptor, line) :]


class StopFlag:
    """Callable that is true once SIGTERM has arrived; read between updates."""

    def __init__(self) -> None:
        self._requested = False
        signal.signal(signal.SIGTERM, self._request)

    def _request(self, _number: int, _frame: object) -> None:
        self._requested = True

    def __call__(self) -> bool:
        return self._requested


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "inspect":
        return _inspect(options.target)
    if options.command == "fork-server":
        return _serve_forks()
    if options.command == "bench":
        from atft.bench import planted  # noqa: PLC0415 - loads polars

        return planted.main(options)
    spec = _read_spec(options.spec, SPECS[options.command])
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    stop = StopFlag()
    emit = EventStream(_take_events_fd(options.events_fd))
    if options.lease_seconds is not None:
        die_with_parent()
        watch_lease(options.lease_seconds)
    last = _caught(lambda: _execute(options, spec, emit, stop), show=traceback.print_exc)
    emit(last)
    return FAILED if isinstance(last, Failed) else 0


def _caught(work: Callable[[], T], show: Callable[[], None] = lambda: None) -> T | Failed:
    """What `work` returns, or its error as the `failed` event, after `show`."""
    try:
        return work()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - the outermost handler: a panic of native code is no Exception
        show()
        return failure(error)


def _execute(options: argparse.Namespace, spec: Spec, emit: EventStream, stop: StopFlag) -> Finished | Stopped | Failed:
    match spec:
        case RunSpec() | EnsembleSpec() | PreflightSpec():
            return _run(options, spec, emit, stop)
        case PredictSpec():
            return _predict(options, spec, emit, stop)
        case BaselinesSpec():
            return _baselines(options, spec, emit, stop)
        case DatasetSpec():
            return _build(options, spec, emit, stop)
        case _:
            raise TypeError(spec)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m atft", description="Train, predict, build a dataset's cache, or inspect it."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train a model as a TrainSpec describes")
    run.add_argument("spec", type=Path, help="TrainSpec as JSON")
    run.add_argument("--init-from", type=Path, metavar="DIR", help="folder of the run that the spec's init_from names")
    pretrain = commands.add_parser("pretrain", help="pretrain the encoder as a PretrainSpec describes")
    pretrain.add_argument("spec", type=Path, help="PretrainSpec as JSON")
    pretrain.set_defaults(init_from=None, no_test=True, stored_baselines=True, preflight=False)
    ensemble = commands.add_parser("ensemble", help="train and average the members of an EnsembleSpec")
    ensemble.add_argument("spec", type=Path, help="EnsembleSpec as JSON")
    ensemble.add_argument("--init-from", type=Path, metavar="DIR", help="folder of the run that base.init_from names")
    ensemble.set_defaults(no_test=False, preflight=False)
    preflight = commands.add_parser("preflight", help="check the first step of each training of a PreflightSpec")
    preflight.add_argument("spec", type=Path, help="PreflightSpec as JSON")
    preflight.add_argument("--init-from", type=Path, metavar="DIR", help="folder of the run that base.init_from names")
    for command in (run, ensemble, pretrain, preflight):
        command.add_argument("--cache", type=Path, required=True, help="folder of the dataset's cache")
        command.add_argument("--resume", type=Path, help="folder of a checkpoint to resume from")
        command.add_argument(
            "--most-days",
            dest="max_days",
            type=int,
            metavar="N",
            help="largest micro-batch in days, to use less memory",
        )
    for command in (run, ensemble):
        command.add_argument("--stored-baselines", action="store_true", help="compute no baselines")
    run.add_argument("--no-test", action="store_true", help=argparse.SUPPRESS)
    run.add_argument("--preflight", action="store_true", help=argparse.SUPPRESS)
    predict = commands.add_parser("predict", help="write scores for the days of a PredictSpec")
    predict.add_argument("spec", type=Path, help="PredictSpec as JSON")
    predict.add_argument("--model", type=Path, required=True, help="folder of the finished run whose weights are used")
    predict.add_argument("--weights-sha256", metavar="HEX", help="refuse weights with other SHA-256")
    predict.add_argument("--cache", type=Path, required=True, help="folder of the dataset's cache")
    predict.add_argument("--most-days", dest="max_days", type=int, metavar="N", help="largest micro-batch in days")
    baselines = commands.add_parser("baselines", help="compute the baselines of a BaselinesSpec")
    baselines.add_argument("spec", type=Path, help="BaselinesSpec as JSON")
    baselines.add_argument("--cache", type=Path, required=True, help="folder of the dataset's cache")
    build = commands.add_parser("build", help="build the cache of a DatasetSpec")
    build.add_argument("spec", type=Path, help="DatasetSpec as JSON, with a local path")
    for command in (run, ensemble, pretrain, preflight, predict, baselines, build):
        command.add_argument("--out", type=Path, required=True, help="folder to write to")
        command.add_argument(
            "--events-fd",
            type=int,
            default=1,
            metavar="N",
            help="file descriptor for events (default: standard output)",
        )
        command.add_argument(
            "--lease-seconds", type=float, metavar="L", help="exit when standard input has had no line for L seconds"
        )
    build.add_argument(
        "--known",
        type=Path,
        metavar="DIR",
        help="folder of caches by fingerprint; one with this content is not built again",
    )
    inspect = commands.add_parser("inspect", help="print as JSON what a DatasetSpec would build, or what a cache holds")
    inspect.add_argument("target", type=Path, help="DatasetSpec as JSON, or the folder of a cache")
    forks = commands.add_parser(
        "fork-server", help="fork a child for each request on the socket that is standard input"
    )
    forks.add_argument("room", nargs="?", help=argparse.SUPPRESS)
    bench = commands.add_parser("bench", help="compute reference scores")
    planted = bench.add_subparsers(dest="subject", required=True).add_parser(
        "planted", help="both upper bounds of planted panels, and theory"
    )
    planted.add_argument("--mode", action="append", choices=get_args(PlantedMode), help="repeatable (default: all)")
    planted.add_argument("--num-codes", type=int, default=1500)
    planted.add_argument("--num-days", type=int, default=600)
    planted.add_argument("--num-features", type=int, default=8)
    planted.add_argument("--signal", type=float, default=0.05, help="κ (default: %(default)s)")
    planted.add_argument("--seeds", type=int, default=1, metavar="N", help="panels with seeds 0 … N-1 are averaged")
    planted.add_argument("--horizons", type=int, nargs="+", default=[1, 5, 10, 20], metavar="DAYS")
    planted.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def _read_spec(path: Path, kind: type[S]) -> S:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        _usage(f"cannot read {path}: {error.strerror}")
    except ValidationError as error:
        _usage(f"{path} is not a {kind.__name__}: {error}")


def _usage(message: str) -> NoReturn:
    sys.stderr.write(f"python -m atft: {message}\n")
    sys.exit(USAGE)


def _take_events_fd(descriptor: int) -> int:
    """A private copy of the events descriptor. Redirects standard output to stderr, so that a library's print cannot
    mix with events.
    """
    try:
        own = os.dup(descriptor)
    except OSError as error:
        _usage(f"--events-fd {descriptor}: {error.strerror}")
    if descriptor == 1:
        os.dup2(2, 1)
    else:
        os.close(descriptor)
    return own


def _run(
    options: argparse.Namespace, spec: RunSpec | EnsembleSpec | PreflightSpec, emit: EventStream, stop: StopFlag
) -> Finished | Stopped | Failed:
    resumed = {}
    if options.resume is not None:
        manifest = json.loads((options.resume / "manifest.json").read_bytes())
        resumed = {
            "resumed_from": str(options.resume),
            "resumed_step": manifest["loop"]["updates"],
            "resumed_fold": len(manifest["loop"]["folds"]),
            "resumed_epoch": manifest["loop"]["folds"][-1]["epoch"],
        }
    emit(Started.model_validate({"pid": os.getpid(), **resumed}))
    from atft.data.cache.reader import Cache  # noqa: PLC0415 - after `started`: these load torch and take seconds
    from atft.train.loop import preflight_points, train  # noqa: PLC0415

    cache = Cache.open(options.cache)
    if stop():
        return Stopped()
    if isinstance(spec, PreflightSpec):
        return preflight_points(spec, cache, options.out, emit, stop, options.init_from)
    return train(
        spec,
        cache,
        options.out,
        emit,
        stop,
        options.resume,
        test=not options.no_test,
        only_stored_baselines=options.stored_baselines,
        preflight_only=options.preflight,
        max_days=options.max_days,
        source=options.init_from,
    )


def _predict(
    options: argparse.Namespace, spec: PredictSpec, emit: EventStream, stop: StopFlag
) -> Finished | Stopped | Failed:
    emit(Started(pid=os.getpid()))
    from atft.data.cache.reader import Cache  # noqa: PLC0415 - as above
    from atft.train.prediction import predict  # noqa: PLC0415

    return predict(
        spec,
        options.model,
        Cache.open(options.cache),
        options.out,
        emit,
        stop,
        weights_sha256=options.weights_sha256,
        max_days=options.max_days,
    )


def _baselines(
    options: argparse.Namespace, spec: BaselinesSpec, emit: EventStream, stop: StopFlag
) -> Finished | Stopped | Failed:
    emit(Started(pid=os.getpid()))
    from atft.data.cache.reader import Cache  # noqa: PLC0415 - as above
    from atft.train.baselines_run import run_baselines  # noqa: PLC0415

    return run_baselines(spec, Cache.open(options.cache), options.out, emit, stop)


def _build(
    options: argparse.Namespace, spec: DatasetSpec, emit: EventStream, stop: StopFlag
) -> Finished | Stopped | Failed:
    emit(Started(pid=os.getpid()))
    versions = {name: _version(name) for name in ("atft", "numpy", "polars", "pyarrow")}
    evidence = BuildEvidence(versions={"python": platform.python_version(), **versions}, host=socket.gethostname())
    emit(Evidence(body=evidence.to_json()))
    from atft.data.builder.run import BuildStopped, build  # noqa: PLC0415 - after `started`: this loads polars

    try:
        result = build(spec, options.out, emit, stop, options.known)
    except BuildStopped:
        return Stopped()
    dropped = [DroppedRowsEvidence.model_validate(rows) for rows in result.dropped_rows]
    emit(Evidence(body=evidence.model_copy(update={"dropped_rows": dropped}).to_json()))
    body = {
        "manifest": result.manifest.model_dump(mode="json"),
        "profile": result.profile,
        "leak_report": result.leak_report,
    }
    return Finished(result=body)


def _serve_forks() -> int:
    die_with_parent()
    try:
        return fork_server.serve(main)
    except fork_server.CannotFork as error:
        sys.stderr.write(f"python -m atft fork-server: {error}\n")
        return FAILED


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a copy that is not installed
        return None


def _inspect(target: Path) -> int:
    found = _caught(lambda: _inspection(target))
    if isinstance(found, Failed):
        words = " ".join(found.message.split())  # one line, as the service reads it
        if found.reason is Reason.INTERNAL:
            words = f"the inspection failed unexpectedly, please report it: {words}"
        sys.stderr.write(f"{words}\n")
        return FAILED
    sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return 0


def _inspection(target: Path) -> object:
    if target.is_dir():
        from atft.data.cache.reader import read_manifest  # noqa: PLC0415

        return read_manifest(target).model_dump(mode="json")
    spec = _read_spec(target, DatasetSpec)
    from atft.data.builder.run import inspect  # noqa: PLC0415

    return inspect(spec)


def failure(error: BaseException) -> Failed:
    """The `failed` event for an exception, with its reason and what to do."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, Reason):
        return Failed(reason=reason, message=str(error))
    smaller = "use a smaller batch_size, hidden_size or window"
    match error:
        case ValidationError():
            message = "; ".join(_with_pointer(e["msg"], e.get("ctx", {})) for e in error.errors())
            return Failed(reason=Reason.INVALID_PARAMS, message=message)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Failed(reason=Reason.DISK_FULL, message=f"the disk is full: free some space and retry ({error})")
    name = type(error).__name__
    if name == "OutOfMemoryError":
        return Failed(reason=Reason.OOM_GPU, message=f"the GPU's memory is full: {smaller} ({error})")
    if (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    ):
        return Failed(reason=Reason.OOM_HOST, message=f"the machine's memory is full: {smaller} ({error})")
    return Failed(reason=KNOWN_ERRORS.get(name, Reason.INTERNAL), message=f"{name}: {error}")


def _with_pointer(message: str, context: dict[str, object]) -> str:
    pointer = context.get("pointer")
    return f"{pointer}: {message}" if pointer else message


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
