"""What clients see. Extend these, do not bend them: every field is a promise. Each model carries an example."""

from datetime import date, datetime
from typing import Annotated, Any, Final, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainSerializer, with_config
from typing_extensions import TypedDict

from api.http import examples
from jobs.states import JobKind, JobState, Reason, Wanted

Time = Annotated[
    datetime,
    PlainSerializer(
        lambda t: t.isoformat(timespec="milliseconds").replace("+00:00", "Z"), return_type=str, when_used="json"
    ),
]
Metrics = dict[str, float | None]
Item = TypeVar("Item")


class View(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


def _example(*values: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(values)})


class FieldError(View):
    """One thing that is wrong with a request."""

    model_config = _example(examples.FIELD_ERROR)

    detail: str
    code: str
    pointer: str | None = Field(
        None, description="JSON pointer (RFC 6901) into the body; null for other parts of the request"
    )
    parameter: str | None = Field(None, description="name of the query, path or header parameter")
    location: str | None = Field(None, description="query, path, header: where the parameter is")


class Problem(View):
    """An RFC 9457 problem. `code` is stable, for programs; `detail` says what to do, for people."""

    model_config = _example(examples.PROBLEM)

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str = Field(description="also in the X-Request-ID header and the server's log")
    errors: list[FieldError] = []


class Page(View, Generic[Item]):
    """Newest first. `next_cursor` is opaque; null on the last page."""

    items: list[Item]
    next_cursor: str | None


class ProgressView(BaseModel):
    """Where the running attempt is. `ratio` is 0 to 1 over the whole job."""

    model_config = ConfigDict(extra="ignore", **_example(examples.PROGRESS))

    phase: str | None = Field(None, description="build, graph, train, validate, test, baselines")
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    ratio: float = 0.0
    eta_seconds: float | None = None
    samples_per_second: float | None = Field(None, description="(stock, day) samples trained a second")


@with_config(_example(examples.LINKS) | {"extra": "forbid"})
class Links(TypedDict):  # no model: fifty go with a page of jobs, and a model takes ten times as long to make
    self: str
    metrics: str
    events: str
    logs: str
    evidence: str
    artifacts: str
    cancel: str
    page: str


class JobView(View):
    """One job of any kind."""

    model_config = _example(examples.JOB)

    id: UUID
    kind: JobKind
    parent_id: UUID | None
    source_job_id: UUID | None
    name: str | None
    tags: dict[str, str]
    state: JobState
    wanted: Wanted = Field(
        description="what was last asked for; it differs from the state while a wish is being carried out"
    )
    status: str = Field(description="the state in one word for people: also cancelling, pausing, recovering")
    reason: Reason | None
    message: str | None
    attempt: int
    max_attempts: int
    priority: int = Field(description="0 runs first, 9 last")
    queue: str
    dataset: str | None
    dataset_fingerprint: str | None
    spec: dict[str, JsonValue]
    spec_digest: str
    progress: ProgressView | None
    metrics: Metrics = Field(description="latest value by name; null is undefined, never 0")
    best: dict[str, JsonValue] | None = Field(description="`epoch` and `metrics` of the best epoch by the objective")
    pending_reason: str | None = Field(description="why a queued job does not run yet")
    queue_position: int | None = Field(description="jobs ahead of this one on its queue; null unless queued")
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    worker: str | None
    links: Links


class SubmittedView(JobView):
    """The job that a submit call made (or, by its Idempotency-Key, had already made)."""

    model_config = _example({**examples.JOB, **examples.JOB_QUEUED, "warnings": []})

    warnings: list[str] = Field([], description="what may keep the job from running or surprise its owner")


class JobPage(Page[JobView]):
    """One page of jobs, newest first."""

    model_config = _example({"items": [examples.JOB], "next_cursor": None})


class Stretch(View):
    """Consecutive trading days."""

    model_config = _example(examples.STRETCH)

    first: date
    last: date
    num_days: int


class FoldDays(View):
    """The trading days of one training with its evaluation; `purged` ones lie in the gaps and belong to nobody."""

    model_config = _example(examples.FOLD_DAYS)

    train: list[Stretch]
    val: list[Stretch]
    test: list[Stretch]
    purged: list[Stretch]


class Plan(View):
    """What a training job would be. Nothing is stored."""

    model_config = _example(examples.PLAN)

    spec: dict[str, JsonValue] = Field(description="resolved: every default filled in")
    spec_digest: str
    warnings: list[str]
    dataset_fingerprint: str
    num_parameters: int = Field(description="trainable numbers of the network")
    num_folds: int = Field(description="models it trains, one after another; the numbers below are of the largest fold")
    num_members: int = Field(description="seeds of an ensemble, each trained on every fold; 1 for any other job")
    epochs: int = Field(description="of each fold, at most")
    days_per_step: int = Field(description="whole trading days a step: max(1, round(batch_size / median stocks a day))")
    steps_per_epoch: int
    samples_per_epoch: int = Field(description="about: training days × median stocks a day")
    num_train_days: int
    num_val_days: int
    num_test_days: int
    folds: list[FoldDays] | None = Field(description="null when the dataset's files cannot be read")
    estimated_seconds: float | None = Field(
        description="of all folds and members, by finished jobs with this model and window on this queue; "
        "null until there are any"
    )
    estimated_bytes: int = Field(
        description="disk: three checkpoints of weights and two moments in float32, and the best weights of each fold "
        "or member"
    )
    queue: str
    queue_position: int


class Series(View):
    model_config = _example(examples.SERIES)

    step: list[int] = Field(description="1-based epoch; for names under `step/` the update number")
    value: list[float | None] = Field(description="null is undefined")


class MetricsView(View):
    """A job's numbers: the newest, those of the best epoch, and the series."""

    model_config = _example(examples.METRICS)

    job_id: UUID
    state: JobState
    attempt: int
    latest: Metrics
    best: dict[str, JsonValue] | None
    baselines: dict[str, Metrics] = Field(description="the same metrics of simple rankers, beside the job's own")
    series: dict[str, Series]
    last_seq: int = Field(description="the event up to which all is here: a stream goes on `after` it")


class EventView(View):
    """The `data:` of one server-sent event. `seq` is the SSE `id`; progress has none."""

    model_config = _example(examples.EVENT)

    job_id: UUID
    seq: int | None
    time: Time
    body: dict[str, JsonValue]


class ArtifactView(View):
    model_config = _example(examples.ARTIFACT)

    name: str
    size_bytes: int
    sha256: str
    media_type: str
    attempt: int
    created_at: Time
    link: str


class Artifacts(View):
    """The files a job left. Each is listed only once it is whole."""

    model_config = _example({"items": [examples.ARTIFACT]})

    items: list[ArtifactView]


class WorkerView(View):
    model_config = _example(examples.WORKER)

    name: str
    host: str
    queue: str
    device: str
    busy_with: UUID | None = Field(description="the job it is running")
    started_at: Time
    last_seen: Time
    live: bool = Field(description="seen within the last minute")


class Workers(View):
    """Worker processes by their own heartbeat."""

    model_config = _example({"items": [examples.WORKER]})

    items: list[WorkerView]


class Health(View):
    model_config = _example({"status": "ok", "checks": {"database": {"ok": True, "detail": "answered in 1 ms"}}})

    status: Literal["ok", "unavailable"]
    checks: dict[str, "Check"] | None = Field(None, description="only with ?verbose")


class Check(View):
    model_config = _example({"ok": True, "detail": "answered in 1 ms"})

    ok: bool
    detail: str


MODELS: Final = (
    FieldError,
    Problem,
    ProgressView,
    JobView,
    SubmittedView,
    JobPage,
    Stretch,
    FoldDays,
    Plan,
    Series,
    MetricsView,
    EventView,
    ArtifactView,
    Artifacts,
    WorkerView,
    Workers,
    Health,
    Check,
)
