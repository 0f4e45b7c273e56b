"""Request and response models of studies."""

from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from api.http import examples
from api.http.schemas import Metrics, Time, View, example
from api.training.schemas import Plan
from jobs.states import JobState, Reason


class StudyPlan(View):
    """The plan of a study. Nothing is stored."""

    model_config = example(examples.STUDY_PLAN)

    spec: dict[str, JsonValue] = Field(description="resolved: every default filled in, equal choices merged")
    spec_digest: str
    warnings: list[str]
    num_trials: int = Field(description="n_trials, or the size of the grid if that is smaller")
    low: dict[str, JsonValue] = Field(description="one extreme of the space; both run one step before any trial")
    high: dict[str, JsonValue]
    trial: Plan = Field(description="plan of a trial with the values of the base spec")
    estimated_seconds: float | None = Field(description="for all trials, `parallelism` at a time; null when unknown")


class TrialView(View):
    """One trial. Only a succeeded trial has a value; a failed one has null."""

    model_config = example(examples.TRIAL)

    number: int
    job_id: UUID
    params: dict[str, JsonValue]
    value: float | None = Field(description="the objective at its best epoch")
    state: JobState
    reason: Reason | None
    message: str | None
    intermediate: dict[int, float | None] = Field(description="the objective by epoch")
    created_at: Time
    started_at: Time | None
    finished_at: Time | None


class Trials(View):
    """All trials of a study, by number."""

    model_config = example({"items": [examples.TRIAL]})

    items: list[TrialView]


class BestView(View):
    """The best trial so far."""

    model_config = example(examples.BEST)

    number: int
    job_id: UUID
    params: dict[str, JsonValue]
    value: float
    epoch: int
    metrics: Metrics
    spec: dict[str, JsonValue] = Field(description="the trial's whole training spec")
    spec_digest: str


class ImportanceView(View):
    """How much each parameter explains of the differences between complete trials (PED-ANOVA); shares add up to 1."""

    model_config = example(examples.IMPORTANCE)

    importance: dict[str, float] | None = Field(description="null when there are too few trials; `why` has the reason")
    num_trials: int
    why: str | None


class Promotion(BaseModel):
    """A request to promote a job. All other fields are changes of its training spec: `"trainer.max_epochs": 20`, or
    `"trainer": {"max_epochs": 20}`.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [examples.PROMOTE]})

    target: Literal["train", "alias"] = Field(alias="as", description="train; alias is not available yet")

    @property
    def changes(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


STUDY_MODELS: Final = (StudyPlan, TrialView, Trials, BestView, ImportanceView)
