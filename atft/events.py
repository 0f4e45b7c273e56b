"""Events that the child process writes, one JSON object a line: `{"type", "child_seq", "time", …}`. Imports pydantic
only.

The supervisor parses each line with `parse`; a line that does not parse is a protocol error, never ignored.
"""

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo

from atft.spec.reason import Reason

Value = float | None  # an undefined metric is null, never 0 or NaN


def _refuse_infinite(found: object) -> None:
    inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    for part in inner:
        _refuse_infinite(part)
    if isinstance(found, float) and not math.isfinite(found):
        raise ValueError("NaN and infinity are no JSON: an undefined number is null")


def _check_finite(body: dict[str, object], info: ValidationInfo) -> dict[str, object]:
    """Refuse NaN and infinity in a parsed line; our own events have null in their place."""
    if info.mode == "json":
        _refuse_infinite(body)
    return body


Body = Annotated[dict[str, object], AfterValidator(_check_finite)]


class Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    child_seq: int = Field(0, ge=0, description="dense from 1 within one process; 0 until `EventStream` stamps it")
    time: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Started(Event):
    type: Literal["started"] = "started"
    pid: int
    resumed_from: str | None = None
    resumed_step: int = 0  # the 0-based optimizer step the run goes on from
    resumed_fold: int = 1  # the fold it goes on with, from 1
    resumed_epoch: int = 0  # number of its epochs already complete


class Evidence(Event):
    """What actually ran; the keys of `body` are those of `GET /jobs/{id}/evidence`.

    Sent after the first step, and again, complete, at the end.
    """

    type: Literal["evidence"] = "evidence"
    body: Body


class Progress(Event):
    """Heartbeat, sent after every micro-batch, or once a second during a build. `phase`: build, graph, train, validate,
    test, baselines, predict; `stage` is a build's step, with `rows` of `num_rows` done.
    """

    type: Literal["progress"] = "progress"
    phase: str
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    ratio: float = Field(ge=0.0, le=1.0)
    eta_seconds: float | None = None
    samples_per_second: float | None = None
    micro_batch_seconds: float | None = None
    stage: str | None = None
    rows: int | None = None
    num_rows: int | None = None


class DailySeries(BaseModel):
    """Daily values of one metric, split and horizon, for paired tests."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str  # e.g. rank_ic, ic, long_short
    split: Literal["val", "test"]
    horizon: int
    days: list[str]  # ISO dates
    values: list[Value]


class Metrics(Event):
    """Metric values at an epoch or update. `step` is the 1-based epoch, of the fold in the name (`val.2/…`) in a run
    with several; for names that start with `step/` it is the 1-based update number over all folds.
    """

    type: Literal["metrics"] = "metrics"
    step: int = Field(ge=0)
    values: dict[str, Value]
    best: bool = False  # this epoch is the best so far by the objective
    daily: list[DailySeries] = []
    source: str | None = None  # null: the model's own; else a baseline's name (ridge, linear_ard, …)


class Checkpointed(Event):
    """A complete checkpoint is on disk; a run resumed from it gives bit-equal results."""

    type: Literal["checkpointed"] = "checkpointed"
    path: str  # relative to --out
    step: int  # optimizer steps done in all
    fold: int = 1  # the fold under way, from 1
    epoch: int  # epochs of that fold complete
    sha256: str
    best: bool = False


class Log(Event):
    type: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"] = "info"
    message: str


class Artifact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # by which clients request it
    path: str  # relative to --out
    media_type: str = "application/octet-stream"


class Finished(Event):
    """The run succeeded; the supervisor verifies that every artifact exists."""

    type: Literal["finished"] = "finished"
    artifacts: list[Artifact] = []
    result: Body = {}  # train: {"best": {...}}; dataset: the manifest
    reason: Reason | None = None  # early_stopped, stop_rule


class Stopped(Event):
    """Ended on request (SIGTERM) after saving; exit code 0. `checkpoint` is null when nothing could be saved."""

    type: Literal["stopped"] = "stopped"
    checkpoint: str | None = None
    step: int = 0


class Failed(Event):
    """The run failed with a known error; `message` says what to do."""

    type: Literal["failed"] = "failed"
    reason: Reason
    message: str


AnyEvent = Annotated[
    Started | Evidence | Progress | Metrics | Checkpointed | Log | Finished | Stopped | Failed,
    Field(discriminator="type"),
]
_ADAPTER: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)
MAX_LINE_BYTES = 8 * 1024 * 1024


_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def parse(line: bytes | str) -> AnyEvent:
    """The event of one line, with U+FFFD for each NUL, which Postgres cannot store. Raises pydantic.ValidationError."""
    line = line.encode() if isinstance(line, str) else line
    return _ADAPTER.validate_json(_NUL.sub(rb"\1\\ufffd", line) if b"\\u0000" in line else line)
