"""`python -m atft` as the supervisor starts it: real processes, real signals, a real pipe."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from atft.events import AnyEvent, Checkpointed, Failed, Finished, Metrics, Progress, Started, Stopped, parse

ROOT = Path(__file__).parents[3]
LEASE_OVER = 75
DATASET = {
    "name": "tiny",
    "planted": {"num_codes": 20, "num_days": 110, "num_features": 4, "signal": 0.3, "seed": 2},
    "horizons": [1, 3],
}
SPEC: dict[str, Any] = {
    "dataset": "tiny",
    "data": {"window": 5, "horizons": [1, 3], "min_names": 5},
    "split": {"train_days": 30, "val_days": 10, "test_days": 10, "embargo_days": 5},
    "model": {"hidden_size": 8, "gat_layers": 1, "gat_heads": 2, "attention_heads": 2, "fan_top_k": 2},
    "graph": {"correlation_window": 20, "half_life": 10, "neighbours": 3, "refresh_days": 10},
    "optimizer": {"name": "adabelief", "lr": 0.003},
    "trainer": {"max_epochs": 3, "batch_size": 20, "checkpoint_every_seconds": 1.0},
    "resources": {"device": "cpu", "threads": 1},
    "baselines": False,
}
LONG = {**SPEC, "trainer": {**SPEC["trainer"], "max_epochs": 5000, "early_stopping": None}}
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")


class Program:
    """One child with its events pipe; the test reads events one by one."""

    def __init__(self, *arguments: str, stdin: int | None = subprocess.DEVNULL) -> None:
        read, write = os.pipe()
        environment = {**os.environ, **THREADS, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "atft", *arguments, "--events-fd", str(write)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            pass_fds=(write,),
            start_new_session=True,
        )
        os.close(write)
        self._pipe: IO[bytes] = os.fdopen(read, "rb")
        self.events: list[AnyEvent] = []

    def __iter__(self) -> Iterator[AnyEvent]:
        while not self._pipe.closed and (line := self._pipe.readline()):
            if line.endswith(b"\n"):
                self.events.append(parse(line))
                yield self.events[-1]

    def until(self, kind: type, count: int = 1) -> Any:
        for event in self:
            count -= isinstance(event, kind)
            if not count:
                return event
        raise AssertionError(f"no {kind.__name__} before the end: {self.finish()[2]}")

    def finish(self) -> tuple[int, str, str]:
        for _ in self:
            pass
        self._pipe.close()
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out.decode(), err.decode()

    def close(self) -> None:
        self._pipe.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def go(*arguments: object, **options: Any) -> Program:
        programs.append(Program(*map(str, arguments), **options))
        return programs[-1]

    yield go
    for program in programs:
        program.close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the program itself."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    program = Program("build", str(folder / "dataset.json"), "--out", str(folder / "cache"))
    code, out, err = program.finish()
    assert code == 0, err
    assert out == ""
    assert isinstance(program.events[-1], Finished)
    assert program.events[-1].result["manifest"]["num_codes"] == 20  # type: ignore[index]
    return folder / "cache"


@pytest.fixture(scope="module")
def undisturbed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Program]:
    """The output folder and the program of a run without interruption."""
    out = tmp_path_factory.mktemp("whole")
    program = Program("run", write(out, SPEC), "--cache", str(cache), "--out", str(out))
    code, printed, err = program.finish()
    assert code == 0, err
    assert printed == ""
    return out, program


def write(folder: Path, spec: dict[str, Any]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec))
    return str(folder / "spec.json")


def metric_rows(programs: Sequence[Program]) -> dict[tuple[str | None, str, int], float | None]:
    """The metrics on record after all attempts: a later attempt replaces equal keys."""
    unstable = ("time/", "system/")
    events = [event for program in programs for event in program.events if isinstance(event, Metrics)]
    return {
        (e.source, name, e.step): v for e in events for name, v in e.values.items() if not name.startswith(unstable)
    }


def test_the_stream_is_numbered_typed_and_complete(undisturbed: tuple[Path, Program]) -> None:
    out, program = undisturbed
    events = program.events
    assert [event.child_seq for event in events] == list(range(1, len(events) + 1))
    assert isinstance(events[0], Started)
    assert events[0].pid == program.process.pid
    assert isinstance(events[-1], Finished)
    assert {event.type for event in events} >= {
        "started",
        "evidence",
        "progress",
        "metrics",
        "checkpointed",
        "finished",
    }
    assert all((out / artifact.path).is_file() for artifact in events[-1].artifacts)
    ratios = [event.ratio for event in events if isinstance(event, Progress) and event.epochs]
    assert ratios == sorted(ratios)
    evidence = [event.body for event in events if event.type == "evidence"][-1]
    threads: Any = evidence["threads"]
    assert threads["env"]["OMP_NUM_THREADS"] == "1"
    assert threads["torch_num_threads"] == 1
    assert threads["os_threads_peak"] <= 1 + 8


def test_killed_at_random_points_it_resumes_to_the_same_bits(
    undisturbed: tuple[Path, Program], cache: Path, tmp_path: Path, start: Callable[..., Program]
) -> None:
    """SIGKILL after some number of events, several times in one run, each time resumed in a fresh folder."""
    undisturbed_out, expected = undisturbed
    num_metrics = sum(isinstance(event, Metrics) for event in expected.events)
    chosen = random.Random(7)
    attempts: list[Program] = []
    resume: list[str] = []
    for attempt in range(4):
        out = tmp_path / str(attempt)
        program = start("run", write(out, SPEC), "--cache", cache, "--out", out, *resume)
        attempts.append(program)
        if attempt < 3:
            program.until(Metrics, chosen.randint(1, num_metrics // 3))
            os.kill(program.process.pid, signal.SIGKILL)
        program.finish()
        saved = [event for event in program.events if isinstance(event, Checkpointed)]
        if saved:
            resume = ["--resume", str(out / saved[-1].path)]
    assert isinstance(attempts[-1].events[-1], Finished)
    assert metric_rows(attempts) == metric_rows([expected])
    for name in ("best.safetensors", "daily.parquet", "predictions.parquet"):
        assert (out / name).read_bytes() == (undisturbed_out / name).read_bytes()
    assert attempts[-1].events[-1].result == expected.events[-1].result  # type: ignore[union-attr]


def test_sigterm_saves_says_stopped_and_exits_0(
    undisturbed: tuple[Path, Program], cache: Path, tmp_path: Path, start: Callable[..., Program]
) -> None:
    undisturbed_out, expected = undisturbed
    first = start("run", write(tmp_path / "a", SPEC), "--cache", cache, "--out", tmp_path / "a")
    first.until(Metrics, 5)
    first.process.terminate()
    code, _, err = first.finish()
    last = first.events[-1]
    assert code == 0, err
    assert isinstance(last, Stopped)
    assert last.step >= 5
    second = start(
        "run",
        write(tmp_path / "b", SPEC),
        "--cache",
        cache,
        "--out",
        tmp_path / "b",
        "--resume",
        tmp_path / "a" / str(last.checkpoint),
    )
    started = second.until(Started)
    assert (started.resumed_step, started.resumed_from) == (last.step, str(tmp_path / "a" / str(last.checkpoint)))
    assert second.finish()[0] == 0
    assert metric_rows([first, second]) == metric_rows([expected])
    assert (tmp_path / "b" / "best.safetensors").read_bytes() == (undisturbed_out / "best.safetensors").read_bytes()


def test_checkpoints_come_inside_an_epoch_too(cache: Path, tmp_path: Path, start: Callable[..., Program]) -> None:
    slow = {
        **SPEC,
        "data": {**SPEC["data"], "window": 20},
        "model": {**SPEC["model"], "hidden_size": 128, "gat_layers": 4},
        "trainer": {**SPEC["trainer"], "max_epochs": 1},
        "split": {"train_days": 50, "val_days": 3, "test_days": 3, "embargo_days": 5},
    }
    program = start("run", write(tmp_path, slow), "--cache", cache, "--out", tmp_path, "--no-test")
    assert program.finish()[0] == 0
    inside = [e for e in program.events if isinstance(e, Checkpointed) and e.epoch == 0 and e.step > 0]
    seconds = next(e for e in program.events if isinstance(e, Metrics) and "time/forward_seconds" in e.values).values
    assert (
        inside
        or sum(seconds[f"time/{part}_seconds"] or 0 for part in ("data", "forward", "backward", "optimizer")) < 1.2
    )


def test_without_renewals_the_lease_ends_the_program(
    cache: Path, tmp_path: Path, start: Callable[..., Program]
) -> None:
    program = start(
        "run", write(tmp_path, LONG), "--cache", cache, "--out", tmp_path, "--lease-seconds", 15, stdin=subprocess.PIPE
    )
    program.until(Metrics, 2)
    began = time.monotonic()
    code, _, err = program.finish()
    assert code == LEASE_OVER, err
    assert time.monotonic() - began < 20
    assert not isinstance(program.events[-1], Finished | Stopped | Failed)
    assert "lease" in err


def test_renewals_keep_it_running_and_it_exits_with_its_supervisor(cache: Path, tmp_path: Path) -> None:
    """A parent that renews a 2 s lease for a while and is then killed:

    the program outlives the lease, not the parent.
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, write(tmp_path, LONG), str(cache), str(tmp_path)],
        stdout=subprocess.PIPE, env={**os.environ, **THREADS, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("checkpoints/0*")):
        assert child.is_running()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(3)
    assert child.is_running()
    assert child.status() != psutil.STATUS_ZOMBIE
    parent.kill()
    parent.communicate()
    gone = time.monotonic() + 5
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < gone, "the child outlived its supervisor"
        time.sleep(0.05)


PARENT = """
import subprocess, sys, time
spec, cache, out = sys.argv[1:]
program = [sys.executable, "-P", "-m", "atft", "run", spec, "--cache", cache, "--out", out, "--lease-seconds", "2"]
child = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
while True:
    child.stdin.write(b"\\n"); child.stdin.flush(); time.sleep(0.5)
"""


def test_sigusr1_shows_the_stacks_and_training_goes_on(
    cache: Path, tmp_path: Path, start: Callable[..., Program]
) -> None:
    program = start("run", write(tmp_path, LONG), "--cache", cache, "--out", tmp_path)
    program.until(Metrics, 2)
    program.process.send_signal(signal.SIGUSR1)
    program.until(Metrics, 2)
    program.process.terminate()
    code, _, err = program.finish()
    assert code == 0
    assert "Current thread" in err
    assert "loop.py" in err


def test_a_failure_is_an_event_and_exit_1(cache: Path, tmp_path: Path, start: Callable[..., Program]) -> None:
    program = start(
        "run",
        write(tmp_path, {**SPEC, "data": {**SPEC["data"], "features": ["signal_1", "nothing"]}}),
        "--cache",
        cache,
        "--out",
        tmp_path,
    )
    code, _, err = program.finish()
    last = program.events[-1]
    assert code == 1
    assert isinstance(last, Failed)
    assert last.reason == "invalid_params"
    assert "nothing" in last.message
    assert "Traceback" in err
    empty = start("run", write(tmp_path, SPEC), "--cache", tmp_path, "--out", tmp_path)
    assert empty.finish()[0] == 1
    assert isinstance(empty.events[-1], Failed)
    assert empty.events[-1].reason == "data_changed"


def test_a_preflight_writes_nothing_but_events_and_loads_nothing_that_comes_later(cache: Path, tmp_path: Path) -> None:
    """The default optimizer's package prints to standard output; that text must not appear among the events."""
    arguments = ["run", write(tmp_path, SPEC), "--cache", str(cache), "--out", str(tmp_path), "--preflight"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-P", "-m", "atft", *arguments],
        capture_output=True, env={**os.environ, **THREADS, "PYTHONPATH": str(ROOT)}, check=True, timeout=120,
    )  # fmt: skip
    events = [parse(line) for line in done.stdout.splitlines()]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert events[-1].result["preflight"]["micro_batch_days"] >= 1  # type: ignore[index]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    assert "torch" in loaded
    assert loaded & {"statsmodels", "scipy.stats", "polars", "lightgbm", "sklearn", "optuna", "plotly"} == set()


def test_inspect_shows_a_cache_and_a_plan_as_json(cache: Path) -> None:
    for target in (cache, cache.parent / "dataset.json"):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "atft", "inspect", str(target)],
            capture_output=True, env={**os.environ, **THREADS, "PYTHONPATH": str(ROOT)}, check=True, timeout=120,
        )  # fmt: skip
        assert json.loads(done.stdout)
