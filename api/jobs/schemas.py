"""Response models of jobs: the job itself, its metrics, events and artifacts. Each carries an example."""

from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, with_config
from typing_extensions import TypedDict

from api.http import examples
from api.http.schemas import Metrics, Page, Time, View, example
from atft.spec.metric import LISTED
from jobs.db.columns import Best
from jobs.record.actions import Action
from jobs.states import JobKind, JobState, Reason, Wanted


class ProgressView(BaseModel):
    """How far the running attempt is. `ratio` is 0 to 1 over the whole job."""

    model_config = ConfigDict(extra="ignore", **example(examples.PROGRESS))

    phase: str | None = Field(None, description="build, graph, train, validate, test, baselines")
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    ratio: float = 0.0
    eta_seconds: float | None = None
    samples_per_second: float | None = Field(None, description="(stock, day) samples trained a second")


@with_config(example(examples.LINKS) | {"extra": "forbid"})
class Links(TypedDict):  # no model: fifty go with a page of jobs, and a model takes ten times as long to make
    self: str
    metrics: str
    events: str
    logs: str
    evidence: str
    artifacts: str
    cancel: str
    page: str


@with_config(
    ConfigDict(extra="ignore", json_schema_extra={"additionalProperties": False, "examples": [examples.BEST_EPOCH]})
)
class BestEpoch(Best, total=False):
    """The best epoch by the objective. A study has that of its best `trial`, with the trial's job and parameters.
    No key is required: a release that wrote the row may have known fewer.
    """


class JobSummary(View):
    """One job of any kind in a list: without its spec, and of its metrics only those that a list shows."""

    model_config = example(examples.JOB_SUMMARY)

    id: UUID
    kind: JobKind
    parent_id: UUID | None
    source_job_id: UUID | None
    name: str | None
    tags: dict[str, str]
    state: JobState
    wanted: Wanted = Field(
        description="what was last requested; it differs from the state until the request has taken effect"
    )
    status: str = Field(description="the state as one word for display: also cancelling, pausing, recovering")
    reason: Reason | None
    message: str | None
    attempt: int
    max_attempts: int
    priority: int = Field(description="0 runs first, 9 last")
    queue: str
    dataset: str | None
    dataset_fingerprint: str | None
    spec_digest: str
    progress: ProgressView | None
    metrics: Metrics = Field(description=f"latest value of {' and '.join(LISTED)}; an undefined value is null, never 0")
    best: BestEpoch | None = Field(description="the best epoch by the objective, with the same metrics")
    pending_reason: str | None = Field(description="why a queued job does not run yet")
    queue_position: int | None = Field(description="jobs ahead of this one on its queue; null unless queued")
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    worker: str | None
    actions: list[Action] = Field(description="what may be done with the job now; each would change something")
    links: Links


class JobView(JobSummary):
    """One job of any kind."""

    model_config = example(examples.JOB)

    spec: dict[str, JsonValue]
    metrics: Metrics = Field(description="latest value by name; an undefined value is null, never 0")
    best: BestEpoch | None = Field(description="`epoch` and `metrics` of the best epoch by the objective")
    verdict: str | None = Field(
        description="whether the baselines are there to judge a succeeded training by: `ready`; `pending` while "
        "`baselines_job_id` computes them; else why there are none. null for other jobs, and in answers to a submit"
    )
    baselines_job_id: UUID | None = Field(description="the job that computes the baselines; null if this one did")


class SubmittedView(JobView):
    """The job that a submit call created (or, by its Idempotency-Key, had already created)."""

    model_config = example({**examples.JOB, **examples.JOB_QUEUED, "warnings": []})

    warnings: list[str] = Field([], description="reasons why the job may not run, or not as expected")


class JobPage(Page[JobSummary]):
    """One page of jobs, newest first."""

    model_config = example({"items": [examples.JOB_SUMMARY], "next_cursor": None})


class Series(View):
    model_config = example(examples.SERIES)

    step: list[int] = Field(description="1-based epoch; for names under `step/` the update number")
    value: list[float | None] = Field(description="null is undefined")


class MetricsView(View):
    """A job's metrics: the newest, those of the best epoch, and the series."""

    model_config = example(examples.METRICS)

    job_id: UUID
    state: JobState
    attempt: int
    latest: Metrics
    best: BestEpoch | None
    baselines: dict[str, Metrics] = Field(description="the same metrics of simple rankers on the same days")
    series: dict[str, Series]
    last_seq: int = Field(description="number of the last event that is included: follow a stream `after` it")


class EventView(View):
    """The `data:` of one server-sent event. `seq` is the SSE `id`; progress has none."""

    model_config = example(examples.EVENT)

    job_id: UUID
    seq: int | None
    time: Time
    body: dict[str, JsonValue]


class ArtifactView(View):
    model_config = example(examples.ARTIFACT)

    name: str
    size_bytes: int
    sha256: str
    media_type: str
    attempt: int
    created_at: Time
    link: str


class Artifacts(View):
    """The output files of a job. Each is listed only once it is complete."""

    model_config = example({"items": [examples.ARTIFACT]})

    items: list[ArtifactView]


class Priority(View):
    """A job's priority in its queue."""

    model_config = example({"priority": 2})

    priority: int = Field(ge=0, le=9, description="0 runs first, 9 last")


JOB_MODELS: Final = (
    ProgressView, JobSummary, JobView, SubmittedView, JobPage, Series, MetricsView, EventView, ArtifactView, Artifacts,
    Priority,
)  # fmt: skip
