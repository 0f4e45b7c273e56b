"""Models of the service's responses. Fields that a newer server adds are kept, not refused."""

from collections.abc import Iterable
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from atft.spec.metric import RANK_IC

if TYPE_CHECKING:
    import polars as pl

Value = float | None  # an undefined metric is null, never 0
State = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled", "pruned"]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "pruned"})


def html_table(rows: Iterable[tuple[object, ...]]) -> str:
    cells = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"


class ResponseModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Progress(ResponseModel):
    phase: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    ratio: float | None = None
    eta_seconds: float | None = None
    samples_per_second: float | None = None


class JobSummary(ResponseModel):
    """A job in a list: `spec` and most metrics are left to `Client.job(id)`."""

    id: str
    kind: str
    state: State
    name: str | None = None
    wanted: str = "run"
    status: str | None = None  # the state as one word for display
    reason: str | None = None
    message: str | None = None
    attempt: int = 0
    queue: str | None = None
    dataset: str | None = None
    dataset_fingerprint: str | None = None
    spec_digest: str | None = None
    progress: Progress | None = None
    latest: dict[str, Value] | None = Field(None, alias="metrics")  # `job.metrics()` requests the series
    pending_reason: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    actions: list[str] = []  # what may be done with the job now
    links: dict[str, str] = {}

    @property
    def done(self) -> bool:
        return self.state in TERMINAL

    def _repr_html_(self) -> str:
        """HTML table for notebooks."""
        ratio = None if self.progress is None or self.progress.ratio is None else f"{self.progress.ratio:.0%}"
        figures = {name: value for name, value in sorted((self.latest or {}).items()) if RANK_IC in name}
        rows: dict[str, object] = {
            "job": self.id, "name": self.name, "kind": self.kind, "state": self.state, "reason": self.reason,
            "message": self.message, "dataset": self.dataset, "progress": None if self.done else ratio,
            **{name: "undefined" if value is None else f"{value:.4f}" for name, value in figures.items()},
        }  # fmt: skip
        return html_table([(name, value) for name, value in rows.items() if value is not None])


class Job(JobSummary):
    spec: dict[str, JsonValue] = {}
    verdict: str | None = None  # of a succeeded training: ready, pending, or why it has no baselines
    baselines_job_id: str | None = None  # the job that computes them
    warnings: list[str] = []


class JobPage(ResponseModel):
    items: list[JobSummary]
    next_cursor: str | None = None


class DatasetPage(ResponseModel):
    items: list[dict[str, JsonValue]]
    next_cursor: str | None = None


class Series(ResponseModel):
    step: list[int]
    value: list[Value]


class Best(ResponseModel):
    epoch: int | None = None
    objective: str | None = None
    value: Value = None
    metrics: dict[str, Value] = {}


class Metrics(ResponseModel):
    job_id: str
    state: State
    latest: dict[str, Value] = {}
    best: Best | None = None
    series: dict[str, Series] = {}
    baselines: dict[str, dict[str, Value]] = {}

    def rows(self) -> list[tuple[str, int, Value]]:
        """(name, step, value), sorted by name and step; an undefined value is None."""
        return [
            (name, step, value)
            for name, series in sorted(self.series.items())
            for step, value in zip(series.step, series.value, strict=True)
        ]

    def to_polars(self) -> "pl.DataFrame":
        """Columns name, step, value; an undefined value is null."""
        import polars as pl  # noqa: PLC0415 - half a second, which only this method needs

        schema = {"name": pl.String, "step": pl.Int64, "value": pl.Float64}
        return pl.DataFrame(self.rows(), schema=schema, orient="row")


class ComparedJob(ResponseModel):
    """One job or baseline of a comparison; a baseline has no state."""

    id: str
    name: str | None = None
    mean: Value = None
    std: Value = None
    ic_t: Value = None
    num_days: int = 0
    state: State | None = None


class ComparedPair(ResponseModel):
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


class Comparison(ResponseModel):
    metric: str
    jobs: list[ComparedJob]
    differences: dict[str, list[JsonValue]] = {}
    fair: bool
    unfair_because: list[str] = []
    pairs: list[ComparedPair] = []
    model_confidence_set: list[str] | None = None
    curves: dict[str, Series] = {}

    def _repr_html_(self) -> str:
        """HTML table of the pairs with their verdicts, for notebooks."""
        names = {job.id: job.name or job.id for job in self.jobs}
        head = ("", "difference", "95 % interval", "p", "days", "verdict")
        rows = [
            (
                f"{names.get(pair.a, pair.a)} - {names.get(pair.b, pair.b)}",
                "undefined" if pair.mean_difference is None else f"{pair.mean_difference:.4f}",
                "" if pair.ci95 is None else f"{pair.ci95[0]:.4f} to {pair.ci95[1]:.4f}",
                "" if pair.p_value is None else f"{pair.p_value:.3f}",
                pair.num_days,
                pair.verdict,
            )
            for pair in self.pairs
        ]
        fair = "a fair comparison" if self.fair else f"unfair: {'; '.join(self.unfair_because)}"
        return f"<p>{escape(self.metric)}: {escape(fair)}</p>{html_table([head, *rows])}"


class Trial(ResponseModel):
    """One trial of a study; only a succeeded trial has a value."""

    number: int
    job_id: str
    params: dict[str, JsonValue] = {}
    value: Value = None
    state: State
    reason: str | None = None
    message: str | None = None
    intermediate: dict[int, Value] = {}


class Trials(ResponseModel):
    items: list[Trial]


class BestTrial(ResponseModel):
    number: int
    job_id: str
    params: dict[str, JsonValue]
    value: float
    epoch: int | None = None
    metrics: dict[str, Value] = {}
    spec: dict[str, JsonValue] = {}


class Importance(ResponseModel):
    """Importance of each parameter, summing to 1; null when it cannot be computed, with the reason in `why`."""

    importance: dict[str, float] | None
    num_trials: int = 0
    why: str | None = None


class Event(ResponseModel):
    """One server-sent event; `seq` is null for progress events, which are not stored."""

    kind: str
    seq: int | None
    body: dict[str, JsonValue]
