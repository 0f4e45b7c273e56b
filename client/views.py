"""What the service answers, as far as the client reads it. New fields of a newer server are kept, not refused."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

Value = float | None  # an undefined metric is null, never 0
State = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled", "pruned"]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "pruned"})


class View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Progress(View):
    phase: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    ratio: float | None = None
    eta_seconds: float | None = None
    samples_per_second: float | None = None


class Job(View):
    id: str
    kind: str
    state: State
    name: str | None = None
    wanted: str = "run"
    status: str | None = None  # the state in one word for people
    reason: str | None = None
    message: str | None = None
    attempt: int = 0
    queue: str | None = None
    dataset: str | None = None
    dataset_fingerprint: str | None = None
    spec: dict[str, JsonValue] = {}
    spec_digest: str | None = None
    progress: Progress | None = None
    metrics: dict[str, Value] | None = None
    pending_reason: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    warnings: list[str] = []
    links: dict[str, str] = {}

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class JobPage(View):
    items: list[Job]
    next_cursor: str | None = None


class Series(View):
    step: list[int]
    value: list[Value]


class Best(View):
    epoch: int | None = None
    objective: str | None = None
    value: Value = None
    metrics: dict[str, Value] = {}


class Metrics(View):
    job_id: str
    state: State
    latest: dict[str, Value] = {}
    best: Best | None = None
    series: dict[str, Series] = {}
    baselines: dict[str, dict[str, Value]] = {}


class ComparedJob(View):
    """One side; a baseline's state is null."""

    id: str
    name: str | None = None
    mean: Value = None
    std: Value = None
    ic_t: Value = None
    num_days: int = 0
    state: State | None = None


class ComparedPair(View):
    a: str
    b: str
    mean_difference: Value = None
    t: Value = None
    degrees_of_freedom: int | None = None
    p_value: Value = None
    ci95: tuple[float, float] | None = None
    num_days: int = 0
    num_dropped: int = 0
    verdict: str


class Comparison(View):
    metric: str
    jobs: list[ComparedJob]
    differences: dict[str, list[JsonValue]] = {}
    fair: bool
    unfair_because: list[str] = []
    pairs: list[ComparedPair] = []
    model_confidence_set: list[str] | None = None
    curves: dict[str, Series] = {}


class Trial(View):
    """One trial of a study; only a succeeded one has a value."""

    number: int
    job_id: str
    params: dict[str, JsonValue] = {}
    value: Value = None
    state: State
    reason: str | None = None
    message: str | None = None
    intermediate: dict[int, Value] = {}


class Trials(View):
    items: list[Trial]


class BestTrial(View):
    number: int
    job_id: str
    params: dict[str, JsonValue]
    value: float
    epoch: int | None = None
    metrics: dict[str, Value] = {}
    spec: dict[str, JsonValue] = {}


class Importance(View):
    """Shares of 1 by parameter; null when nothing can be said, and why."""

    importance: dict[str, float] | None
    num_trials: int = 0
    why: str | None = None


class Event(View):
    """One server-sent event; `seq` is null for progress, which is not durable."""

    kind: str
    seq: int | None
    body: dict[str, JsonValue]
