"""The child program without training: how events are written, and the reason of each exception."""

import errno
import faulthandler
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
from pydantic import ValidationError

from atft import __main__ as program
from atft.data.cache.reader import CacheMismatch
from atft.data.schema import DataError
from atft.events import AnyEvent, Artifact, Evidence, Failed, Log, parse
from atft.spec.data import DatasetSpec, PlantedSpec
from atft.spec.reason import Reason
from atft.train.outputs import verify_artifacts
from atft.train.report import RunError


def test_events_are_numbered_whole_lines() -> None:
    read, write = os.pipe()
    emit = program.EventStream(write)
    emit(Log(message="a\nb"))
    emit(Log(message="ü"))
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        events = [parse(line) for line in pipe]
    assert [event.child_seq for event in events] == [1, 2]
    assert events[0].message == "a\nb"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataError("no close column", Reason.LEAK_SUSPECTED), Reason.LEAK_SUSPECTED),
        (RunError(Reason.NAN_LOSS, "nan on 2020-01-01"), Reason.NAN_LOSS),
        (OSError(errno.ENOSPC, "No space left on device"), Reason.DISK_FULL),
        (OSError(errno.EACCES, "Permission denied"), Reason.INTERNAL),
        (MemoryError(), Reason.OOM_HOST),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), Reason.OOM_HOST),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), Reason.OOM_GPU),
        (CacheMismatch("the cache has another fingerprint"), Reason.DATA_CHANGED),
        (KeyError("x"), Reason.INTERNAL),
    ],
)
def test_an_exception_becomes_the_reason_a_client_can_act_on(error: Exception, reason: Reason) -> None:
    failed = program.failure(error)
    assert failed.reason is reason
    assert failed.message


def test_an_unknown_exception_keeps_its_type_and_message() -> None:
    assert program.failure(ZeroDivisionError("by nothing")).message == "ZeroDivisionError: by nothing"


def test_a_specs_own_error_names_its_field() -> None:
    with pytest.raises(ValidationError) as refused:
        PlantedSpec.model_validate({"num_codes": 1})
    assert program.failure(refused.value).reason is Reason.INVALID_PARAMS


def test_pain_42_a_declared_output_that_is_missing_or_empty_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    (tmp_path / "empty").write_text("")
    verify_artifacts(tmp_path, [Artifact(name="there", path="there")])
    with pytest.raises(RunError, match=r"predictions\.parquet") as refused:
        verify_artifacts(
            tmp_path, [Artifact(name="there", path="there"), Artifact(name="predictions.parquet", path="gone")]
        )
    assert refused.value.reason is Reason.INTERNAL
    with pytest.raises(RunError, match="empty"):
        verify_artifacts(tmp_path, [Artifact(name="empty", path="empty")])


@pytest.mark.parametrize("body", [None, "{", json.dumps({"dataset": "x", "learning_rate": 1})])
def test_an_invalid_spec_is_a_usage_error(body: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spec.json"
    if body is not None:
        path.write_text(body)
    with pytest.raises(SystemExit) as left:
        program.main(["run", str(path), "--cache", "x", "--out", str(tmp_path)])
    assert left.value.code == program.USAGE
    assert "spec.json" in capsys.readouterr().err


@pytest.fixture
def spec(tmp_path: Path) -> Iterator[Path]:
    """A DatasetSpec of a CSV panel with one bad cell; the program's signal handlers go with the test."""
    days = [f"2024-01-{day:02d}" for day in range(1, 31)]
    rows = [f"{day},{code},{100 + n * n * k % 7}" for n, day in enumerate(days) for k, code in enumerate("ABC", 1)]
    (tmp_path / "p.csv").write_text("\n".join(["date,code,close", *rows, "2024-02-01,A,soon"]))
    spec = DatasetSpec(name="x", path=str(tmp_path / "p.csv"), horizons=(1,), on_bad_cell="drop")
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "spec.json"
    signal.signal(signal.SIGTERM, before)
    faulthandler.unregister(signal.SIGUSR1)


def built(spec: Path) -> tuple[int, list[AnyEvent]]:
    events = spec.with_name("events")
    fd = os.open(events, os.O_CREAT | os.O_WRONLY)
    code = program.main(["build", str(spec), "--out", str(spec.with_name("cache")), "--events-fd", str(fd)])
    return code, [parse(line) for line in events.read_bytes().splitlines()]


def test_dropped_rows_stand_in_the_evidence(spec: Path) -> None:
    code, events = built(spec)
    assert code == 0
    evidence = [event.body for event in events if isinstance(event, Evidence)]
    assert "dropped_rows" not in evidence[0]
    [dropped] = evidence[-1]["dropped_rows"]
    assert (dropped["file"], dropped["num_rows"], dropped["cells"]) == ("p.csv", 1, {"close": 1})
    assert "row 91 2024-02-01 A: 'soon'" in dropped["message"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(pl.exceptions.PanicException("not yet implemented"), "invalid_params"), (TypeError("a\nb"), "internal")],
)
def test_a_panic_and_an_unexpected_error_end_in_words(
    spec: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    reason: str,
) -> None:
    def panic(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pl.Series, "set_sorted", panic)
    code, events = built(spec)
    last = events[-1]
    assert (code, isinstance(last, Failed) and last.reason) == (1, reason)
    capfd.readouterr()
    assert program.main(["inspect", str(spec)]) == 1
    output = capfd.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1  # no traceback
    assert " ".join(str(error).split()) in output.err
    assert ("failed unexpectedly, please report it" in output.err) == (reason == "internal")
