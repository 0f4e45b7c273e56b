"""Spec of a training job; `RunSpec` is the part shared by every job that trains the encoder."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from atft.spec.base import Spec, refuse
from atft.spec.data import DatasetRef, DataSpec, SplitSpec
from atft.spec.loss import QUANTILE_BASES, LossSpec
from atft.spec.model import GraphSpec, ModelSpec, Module, Sizes, network_sizes
from atft.spec.optimizer import OptimizerSpec
from atft.spec.scheduler import SchedulerSpec
from atft.spec.training import EvaluationSpec, ResourcesSpec, TrainerSpec

Tags = Annotated[
    dict[Annotated[str, Field(max_length=100)], Annotated[str, Field(max_length=500)]], Field(max_length=50)
]


SourceRef = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(#[1-9][0-9]?)?$",
        description="a job's id; for an ensemble followed by # and the number of a member, from 1",
    ),
]


def parse_source(ref: str) -> tuple[str, int | None]:
    """The job's id and the member's number of a SourceRef."""
    job_id, _, member = ref.partition("#")
    return job_id, int(member) if member else None


class RunSpec(Spec):
    """Fields shared by training and pretraining."""

    dataset: DatasetRef
    name: str | None = Field(None, max_length=200)
    tags: Tags = Field({})
    seed: int = Field(0, ge=0, le=2**31 - 1)
    data: DataSpec = DataSpec()
    split: SplitSpec = SplitSpec()
    model: ModelSpec = ModelSpec()
    graph: GraphSpec = GraphSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    scheduler: SchedulerSpec = SchedulerSpec()
    trainer: TrainerSpec = TrainerSpec()
    resources: ResourcesSpec = ResourcesSpec()

    scored: ClassVar[bool]  # whether its network ends with scores of stocks, which test days judge
    run_pointer: ClassVar[str] = ""

    @property
    def run(self) -> Self:
        """The spec of what is trained: this one. In a spec of several trainings, it is at `run_pointer`."""
        return self

    @property
    def members(self) -> tuple["RunSpec", ...]:
        """The trainings, one after another."""
        return (self,)

    @property
    def min_days_per_step(self) -> int:
        """The fewest days of a step, and of a micro-batch, that have a loss."""
        return 1

    @property
    def source_job(self) -> str | None:
        """The job whose weights it starts from."""
        return None

    @property
    def source_member(self) -> int | None:
        """The member, numbered from 1, of the ensemble whose weights it starts from."""
        return None

    @abstractmethod
    def parameter_sizes(self, num_features: int) -> Mapping[Module, Sizes]:
        """Size of each parameter tensor of the network on `num_features` columns, by module."""

    def num_parameters(self, num_features: int) -> int:
        """Number of trainable parameters of the network on `num_features` columns."""
        return sum(map(sum, self.parameter_sizes(num_features).values()))

    @model_validator(mode="after")
    def _run_consistent(self) -> Self:
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
        if self.scheduler.warmup_epochs > 0 and self.scheduler.row.warms_up:
            refuse("/scheduler/warmup_epochs", f"{self.scheduler.name} warms up by itself: use warmup_epochs 0")
        if self.scheduler.warmup_epochs >= self.trainer.max_epochs and self.scheduler.warmup_epochs > 0:
            refuse("/scheduler/warmup_epochs", "warmup_epochs must be below trainer.max_epochs")
        self._phases_fit()
        return self

    def _phases_fit(self) -> None:
        trained: set[str] = set()
        for index, phase in enumerate(self.trainer.phases):
            pointer = f"/trainer/phases/{index}"
            absent = [name for name in phase.modules or () if name not in self.model.modules]
            if absent:
                refuse(f"{pointer}/modules", f"the model has no module {absent[0]}: it has {list(self.model.modules)}")
            if phase.epochs <= self.scheduler.warmup_epochs:
                refuse(
                    f"{pointer}/epochs",
                    f"a phase must be longer than scheduler.warmup_epochs = {self.scheduler.warmup_epochs}",
                )
            trained.update(phase.modules or self.model.modules)
        idle = [name for name in self.model.modules if name not in trained]
        if self.trainer.phases and idle:
            refuse("/trainer/phases", f"no phase trains {idle}: a part that is switched on would never learn")


class TrainSpec(RunSpec):
    """A training job; `init_from` is a succeeded pretraining, training or member of an ensemble whose encoder weights
    it starts from.
    """

    scored: ClassVar[bool] = True
    loss: LossSpec = LossSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    baselines: bool = True
    init_from: SourceRef | None = None

    @property
    def source_job(self) -> str | None:
        return None if self.init_from is None else parse_source(self.init_from)[0]

    @property
    def source_member(self) -> int | None:
        return None if self.init_from is None else parse_source(self.init_from)[1]

    def parameter_sizes(self, num_features: int) -> Mapping[Module, Sizes]:
        return network_sizes(self.model, num_features, len(self.data.horizons), self.data.window)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._losses_fit()
        rules = enumerate(self.trainer.stop_rules)
        named = {"/trainer/objective": self.trainer.objective}
        named |= {f"/trainer/stop_rules/{index}/metric": rule.metric for index, rule in rules}
        for pointer, metric in named.items():
            if "@" in metric and int(metric.split("@")[1][:-1]) not in self.data.horizons:
                refuse(pointer, f"the horizon of {metric} is not one of data.horizons {list(self.data.horizons)}")
        return self

    def _losses_fit(self) -> None:
        losses = {"/loss": self.loss} | {
            f"/trainer/phases/{index}/loss": phase.loss
            for index, phase in enumerate(self.trainer.phases)
            if phase.loss is not None
        }
        for pointer, loss in losses.items():
            if loss.horizon_weights is not None and len(loss.horizon_weights) != len(self.data.horizons):
                refuse(
                    f"{pointer}/horizon_weights", f"give one weight for each of the {len(self.data.horizons)} horizons"
                )
            if loss.base in QUANTILE_BASES and self.model.quantiles is None:
                refuse("/model/quantiles", f"loss.base {loss.base} needs model.quantiles")
            if loss.base not in QUANTILE_BASES and self.model.quantiles is not None:
                refuse(f"{pointer}/base", f"model.quantiles are trained by loss.base {', '.join(QUANTILE_BASES)} only")
        self._horizons_learn([loss for pointer, loss in losses.items() if pointer != "/loss" or self._own_loss_runs])

    @property
    def _own_loss_runs(self) -> bool:
        return not self.trainer.phases or any(phase.loss is None for phase in self.trainer.phases)

    def _horizons_learn(self, losses: list[LossSpec]) -> None:
        weights = [loss.horizon_weights or (1.0,) * len(self.data.horizons) for loss in losses]
        idle = [h for h, own in zip(self.data.horizons, zip(*weights, strict=True), strict=True) if not any(own)]
        if idle:
            refuse(
                "/loss/horizon_weights",
                f"no loss weighs the horizons {idle}: their scores would never learn; leave them out of data.horizons",
            )
