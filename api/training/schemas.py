"""Response models of training jobs: the plan of a dry run, and the days of a split."""

from typing import Any, Final, Literal

from pydantic import Field, JsonValue

from api.http import examples
from api.http.schemas import View, example
from atft.evidence.models import FoldDays


class Plan(View):
    """The plan of a training job. Nothing is stored."""

    model_config = example(examples.PLAN)

    spec: dict[str, JsonValue] = Field(description="resolved: every default filled in")
    spec_digest: str
    warnings: list[str]
    dataset_fingerprint: str
    num_parameters: int = Field(description="trainable parameters of the network")
    num_folds: int = Field(
        description="number of models trained one after another; the fields below describe the largest fold"
    )
    num_members: int = Field(description="seeds of an ensemble, each trained on every fold; 1 for any other job")
    epochs: int = Field(description="maximum per fold")
    days_per_step: int = Field(
        description="whole trading days per step: max(1, round(batch_size / median stocks per day))"
    )
    steps_per_epoch: int
    samples_per_epoch: int = Field(description="estimate: training days × median stocks per day")
    num_train_days: int
    num_val_days: int
    num_test_days: int
    folds: list[FoldDays] | None = Field(description="null when the dataset's files cannot be read")
    estimated_seconds: float | None = Field(
        description="for all folds and members, from finished jobs with this model and window on this queue; "
        "null until there are any"
    )
    estimated_bytes: int = Field(
        description="disk: three checkpoints of weights and two moments in float32, and the best weights of each fold "
        "or member"
    )
    queue: str
    queue_position: int


class SplitView(View):
    """The trading days of each fold, and a plot of them."""

    model_config = example(examples.SPLIT)

    kind: Literal["walk_forward", "purged_kfold", "cpcv"]
    embargo_days: int = Field(description="trading days between training, validation and test days")
    source: Literal["evidence", "plan"] = Field(
        description="evidence: observed in the run; plan: computed from the calendar of the dataset"
    )
    folds: list[FoldDays] = Field(description="earliest test days first; one model is trained per fold")
    figure: dict[str, Any] = Field(description="the same as a Plotly figure in JSON")


TRAINING_MODELS: Final = (Plan, SplitView)
