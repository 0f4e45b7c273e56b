"""The learning-rate schedulers, one row each, and the spec that chooses one."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field

from atft.spec.base import Spec

WARMUP_CLASS: Final = "torch.optim.lr_scheduler.LinearLR"
SchedulerName = Literal["constant", "cosine", "cosine_restarts", "one_cycle"]


class SchedulerSpec(Spec):
    """Learning-rate scheduler, stepped once an epoch; `t_0`, `t_mult`, `eta_min` as in CosineAnnealingWarmRestarts."""

    name: SchedulerName = "cosine_restarts"
    t_0: int = Field(3, ge=1)
    t_mult: int = Field(2, ge=1)
    eta_min: float = Field(5.0e-5, ge=0.0)
    warmup_epochs: int = Field(0, ge=0)

    @property
    def row(self) -> "SchedulerRow":
        return SCHEDULERS[self.name]

    @property
    def class_paths(self) -> tuple[str, ...]:
        """The classes that run one after another."""
        return (WARMUP_CLASS, self.row.class_path) if self.warmup_epochs else (self.row.class_path,)

    def learning_rate(self, lr: float, epoch: int, epochs: int) -> float:
        """The learning rate of 0-based `epoch` of a schedule of `epochs` epochs, by formula: the evidence of a run is
        held against it, without torch. `lr` is the requested rate.
        """
        if epoch < self.warmup_epochs:
            return lr * (epoch + 1) / (self.warmup_epochs + 1)
        return self.row.rate(self, lr, epoch - self.warmup_epochs, epochs - self.warmup_epochs)


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerRow:
    """One scheduler: torch's class, its arguments, and the formula of its rates. Both functions take the spec, the
    requested rate, and the number of epochs; `rate` the 0-based epoch before that.
    """

    class_path: str
    arguments: Callable[[SchedulerSpec, float, int], dict[str, object]]
    rate: Callable[[SchedulerSpec, float, int, int], float]
    warms_up: bool = False  # by itself: `warmup_epochs` is refused


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _restarting_rate(spec: SchedulerSpec, lr: float, epoch: int, _epochs: int) -> float:
    length = spec.t_0
    while epoch >= length:
        epoch -= length
        length *= spec.t_mult
    return _cosine(lr, min(spec.eta_min, lr), epoch / length)


def _one_cycle_rate(_spec: SchedulerSpec, lr: float, epoch: int, epochs: int) -> float:
    """By torch's defaults: 30 % rising from lr/25, then falling to lr/25/10⁴ after the last epoch."""
    low, top = lr / 25, 0.3 * (epochs + 1) - 1
    if epoch <= top:
        return _cosine(low, lr, epoch / top)
    return _cosine(lr, low / 1e4, (epoch - top) / (epochs - top))


# An eta_min above lr counts as lr: no schedule rises above the requested rate.
SCHEDULERS: Final[Mapping[SchedulerName, SchedulerRow]] = {
    "constant": SchedulerRow(
        class_path="torch.optim.lr_scheduler.ConstantLR",
        arguments=lambda _spec, _lr, _epochs: {"factor": 1.0, "total_iters": 1},
        rate=lambda _spec, lr, _epoch, _epochs: lr,
    ),
    "cosine": SchedulerRow(
        class_path="torch.optim.lr_scheduler.CosineAnnealingLR",
        arguments=lambda spec, lr, epochs: {"T_max": epochs, "eta_min": min(spec.eta_min, lr)},
        rate=lambda spec, lr, epoch, epochs: _cosine(lr, min(spec.eta_min, lr), epoch / epochs),
    ),
    "cosine_restarts": SchedulerRow(
        class_path="torch.optim.lr_scheduler.CosineAnnealingWarmRestarts",
        arguments=lambda spec, lr, _epochs: {"T_0": spec.t_0, "T_mult": spec.t_mult, "eta_min": min(spec.eta_min, lr)},
        rate=_restarting_rate,
    ),
    # One step more than epochs: the cycle's last step has lr / 250,000. Without momentum the betas stay as requested.
    "one_cycle": SchedulerRow(
        class_path="torch.optim.lr_scheduler.OneCycleLR",
        arguments=lambda _spec, lr, epochs: {"max_lr": lr, "total_steps": epochs + 1, "cycle_momentum": False},
        rate=_one_cycle_rate,
        warms_up=True,
    ),
}
