"""Specs of the training loop, evaluation and resources."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from atft.spec.base import NAME_PATTERN, Spec, refuse
from atft.spec.loss import LossSpec
from atft.spec.metric import LEADING, OBJECTIVE_PATTERN, STOP_METRIC_PATTERN, VAL_LOSS
from atft.spec.model import Module


class EarlyStopping(Spec):
    """Stop after `patience` epochs without improvement; with phases only in the last one, so that all phases run."""

    patience: int = Field(5, ge=1)
    min_delta: float = Field(0.0, ge=0.0)


class StopRule(Spec):
    """Stop the run (reason `stop_rule`) when `metric`, from epoch `at_epoch` on, is below or above a bound,
    or has fallen for `falling` consecutive epochs.
    """

    metric: str = Field(pattern=STOP_METRIC_PATTERN)
    at_epoch: int = Field(1, ge=1)
    below: float | None = None
    above: float | None = None
    falling: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if sum(x is not None for x in (self.below, self.above, self.falling)) != 1:
            refuse("/below", "give exactly one of below, above, falling")
        return self


class PhaseSpec(Spec):
    """Consecutive epochs with their own `lr` and `loss` (null: the run's) and trained `modules` (null: all).

    The scheduler restarts in each phase, over the phase's epochs.
    """

    name: str = Field(pattern=NAME_PATTERN)
    epochs: int = Field(ge=1, le=10000)
    lr: float | None = Field(None, gt=0.0, le=10.0)
    modules: tuple[Module, ...] | None = Field(None, min_length=1)
    loss: LossSpec | None = None

    @field_validator("modules")
    @classmethod
    def _distinct(cls, value: tuple[Module, ...] | None) -> tuple[Module, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("list each module once")
        return value


class TrainerSpec(Spec):
    max_epochs: int = Field(10, ge=1, le=10000)
    max_steps_per_epoch: int | None = Field(None, ge=1)
    batch_size: int = Field(4096, ge=1, le=10_000_000)
    accumulate: int = Field(1, ge=1, le=1024)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    ema_decay: float | None = Field(None, gt=0.0, lt=1.0)
    compile: bool = False
    objective: str = Field(LEADING, pattern=OBJECTIVE_PATTERN)
    early_stopping: EarlyStopping | None = EarlyStopping()
    stop_rules: tuple[StopRule, ...] = Field((), max_length=20)
    phases: tuple[PhaseSpec, ...] = Field((), max_length=20)
    checkpoint_every_seconds: float = Field(300.0, ge=1.0)
    timeout_seconds: float | None = Field(None, gt=0.0)

    @model_validator(mode="after")
    def _phases_fill_the_run(self) -> Self:
        if not self.phases:
            return self
        total = sum(phase.epochs for phase in self.phases)
        if total != self.max_epochs:
            refuse(
                "/max_epochs", f"the phases take {total} epochs and max_epochs is {self.max_epochs}: make them equal"
            )
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            refuse("/phases", "give each phase a name of its own")
        if self.objective == VAL_LOSS and any(phase.loss is not None for phase in self.phases):
            refuse("/objective", f"{VAL_LOSS} cannot be compared between phases with different losses")
        return self

    def phase_of(self, epoch: int) -> tuple[PhaseSpec, int]:
        """The phase of 0-based `epoch`, and the phase's first epoch; epochs after the last belong to the last phase.

        Without phases the run is a single phase of all epochs and modules.
        """
        first = 0
        for phase in self.phases:
            if epoch < first + phase.epochs:
                return phase, first
            first += phase.epochs
        if self.phases:
            return self.phases[-1], first - self.phases[-1].epochs
        return PhaseSpec(name="all", epochs=self.max_epochs), 0


class EvaluationSpec(Spec):
    cost_bps: float = Field(5.0, ge=0.0)
    quantile: float = Field(0.2, gt=0.0, le=0.5)


class ResourcesSpec(Spec):
    """Queue, device and limits of a job; `threads` is the child process's limit; lower `priority` runs first."""

    queue: Literal["auto", "gpu", "cpu"] = "auto"
    device: Literal["auto", "cuda", "cpu"] = "auto"
    threads: int = Field(1, ge=1, le=64)
    priority: int = Field(5, ge=0, le=9)
    max_attempts: int = Field(3, ge=1, le=20)
    queue_timeout_seconds: float | None = Field(None, gt=0.0)

    @model_validator(mode="after")
    def _device_on_queue(self) -> Self:
        if self.device == "cuda" and self.queue == "cpu":
            refuse("/queue", "device cuda cannot run on queue cpu")
        return self
