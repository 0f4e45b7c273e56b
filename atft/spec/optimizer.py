"""The optimizers, one row each, and the spec that chooses one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from atft.spec.base import Spec, refuse

OptimizerName = Literal["adamw", "adabelief"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerClass:
    """A class by its import path, and its arguments besides lr, betas, eps and weight_decay."""

    path: str
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerRow:
    """One optimizer: the class that is created, its default `eps`, and what the evidence of a run must show.

    `state_keys` are those of a parameter's state after an update, sorted; `switches` are attributes of the object.
    """

    on_cpu: OptimizerClass
    on_cuda: OptimizerClass | None = None  # None: as on the CPU
    default_eps: float
    state_keys: tuple[str, ...]
    switches: Mapping[str, bool] = field(default_factory=dict)
    needs_beta1: str | None = None  # why betas[0] = 0 is refused; None: it is not

    def class_on(self, device: str) -> OptimizerClass:
        return self.on_cuda if device == "cuda" and self.on_cuda is not None else self.on_cpu


OPTIMIZERS: Final[Mapping[OptimizerName, OptimizerRow]] = {
    "adamw": OptimizerRow(
        on_cpu=OptimizerClass(path="torch.optim.adamw.AdamW", arguments={"fused": True}),
        default_eps=1e-8,
        state_keys=("exp_avg", "exp_avg_sq", "step"),
    ),
    # With decoupled decay and rectification, which makes the first 5 updates plain SGD with momentum (Zhuang et al.
    # 2020, arXiv 2010.07468). On a GPU the package's dozen kernel launches per tensor dominate: our own multi-tensor
    # version there.
    "adabelief": OptimizerRow(
        on_cpu=OptimizerClass(
            path="adabelief_pytorch.AdaBelief.AdaBelief",
            arguments={"weight_decouple": True, "rectify": True, "print_change_log": False},
        ),
        on_cuda=OptimizerClass(path="atft.train.adabelief.ForeachAdaBelief"),
        default_eps=1e-16,
        state_keys=("exp_avg", "exp_avg_var", "step"),
        switches={"rectify": True, "weight_decouple": True},
        needs_beta1=(
            "adabelief divides by the gradient's deviation from its moving average, which is 0 with betas[0] = 0"
        ),
    ),
}


class OptimizerSpec(Spec):
    """Optimizer; `eps` null is its default: 1e-8 for adamw, 1e-16 for adabelief."""

    name: OptimizerName = "adamw"
    lr: float = Field(5.0e-4, gt=0.0, le=10.0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float | None = Field(None, gt=0.0)
    weight_decay: float = Field(1.0e-4, ge=0.0)
    clip_norm: float | None = Field(1.0, gt=0.0)

    @field_validator("betas")
    @classmethod
    def _unit(cls, value: tuple[float, float]) -> tuple[float, float]:
        if any(not 0 <= b < 1 for b in value):
            raise ValueError("betas lie in [0, 1)")
        return value

    @model_validator(mode="after")
    def _betas_fit(self) -> Self:
        if self.betas[0] == 0 and (reason := self.row.needs_beta1) is not None:
            refuse("/betas", reason)
        return self

    @property
    def row(self) -> OptimizerRow:
        return OPTIMIZERS[self.name]

    @property
    def resolved_eps(self) -> float:
        return self.eps if self.eps is not None else self.row.default_eps
