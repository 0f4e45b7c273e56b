"""One training job, complete."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from atft.spec.base import Spec, refuse
from atft.spec.data import DatasetRef, DataSpec, SplitSpec
from atft.spec.model import GraphSpec, ModelSpec
from atft.spec.training import EvaluationSpec, LossSpec, OptimizerSpec, ResourcesSpec, SchedulerSpec, TrainerSpec

Tags = Annotated[
    dict[Annotated[str, Field(max_length=100)], Annotated[str, Field(max_length=500)]], Field(max_length=50)
]


class TrainSpec(Spec):
    dataset: DatasetRef
    name: str | None = Field(None, max_length=200)
    tags: Tags = Field({})
    seed: int = Field(0, ge=0, le=2**31 - 1)
    data: DataSpec = DataSpec()
    split: SplitSpec = SplitSpec()
    model: ModelSpec = ModelSpec()
    graph: GraphSpec = GraphSpec()
    loss: LossSpec = LossSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    scheduler: SchedulerSpec = SchedulerSpec()
    trainer: TrainerSpec = TrainerSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    resources: ResourcesSpec = ResourcesSpec()
    baselines: bool = True
    init_from: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        needed = max(self.data.horizons) + 1
        if self.split.embargo_days < needed:
            refuse(
                "/split/embargo_days",
                f"embargo_days {self.split.embargo_days} is shorter than the longest label: "
                f"it must be ≥ h_max + 1 = {needed}",
            )
        if self.split.kind != "walk_forward" and self.split.embargo_days < self.data.window:
            refuse(
                "/split/embargo_days",
                f"in {self.split.kind} training days follow test days, and their windows must not reach them: "
                f"embargo_days must be ≥ data.window = {self.data.window}",
            )
        if self.model.use_fan and self.model.fan_top_k > self.data.window // 2 + 1:
            refuse(
                "/model/fan_top_k",
                f"a window of {self.data.window} days has {self.data.window // 2 + 1} frequencies; "
                f"fan_top_k is {self.model.fan_top_k}",
            )
        if self.loss.horizon_weights is not None and len(self.loss.horizon_weights) != len(self.data.horizons):
            refuse("/loss/horizon_weights", f"give one weight for each of the {len(self.data.horizons)} horizons")
        if "@" in self.trainer.objective and int(self.trainer.objective.split("@")[1][:-1]) not in self.data.horizons:
            refuse(
                "/trainer/objective", f"the objective's horizon is not one of data.horizons {list(self.data.horizons)}"
            )
        if self.loss.base == "pinball" and self.model.quantiles is None:
            refuse("/model/quantiles", "loss.base pinball needs model.quantiles")
        if self.model.quantiles is not None and self.loss.base != "pinball":
            refuse("/loss/base", "model.quantiles are trained by loss.base pinball only")
        if self.scheduler.warmup_epochs > 0 and self.scheduler.name == "one_cycle":
            refuse("/scheduler/warmup_epochs", "one_cycle warms up by itself: use warmup_epochs 0")
        if self.scheduler.warmup_epochs >= self.trainer.max_epochs and self.scheduler.warmup_epochs > 0:
            refuse("/scheduler/warmup_epochs", "warmup_epochs must be below trainer.max_epochs")
        if self.init_from is not None:
            refuse("/init_from", "init_from is not available yet; use null")
        return self
