"""The loss terms, one row each, and the spec that chooses a base and a rank term."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from atft.spec.base import Spec, refuse

BaseName = Literal["mse", "huber", "pinball"]
RankName = Literal["pearson_rank", "pairwise_sigmoid"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerm:
    """One term: its function by import path, and the fields of `LossSpec` that it alone uses, with its argument's name.

    With `on_quantiles` it takes the network's quantiles and their levels instead of the scores.
    """

    function: str
    settings: Mapping[str, str] = field(default_factory=dict)
    on_quantiles: bool = False


BASES: Final[Mapping[str, LossTerm]] = {
    "mse": LossTerm(function="atft.loss.terms:mse"),
    "huber": LossTerm(function="atft.loss.terms:huber"),
    "pinball": LossTerm(function="atft.loss.terms:pinball", on_quantiles=True),
}
RANKS: Final[Mapping[str, LossTerm]] = {
    "pearson_rank": LossTerm(function="atft.loss.terms:pearson_rank"),
    "pairwise_sigmoid": LossTerm(function="atft.loss.terms:pairwise_sigmoid", settings={"rank_tau": "tau"}),
}
TERMS: Final[Mapping[str, Mapping[str, LossTerm]]] = {"base": BASES, "rank": RANKS}  # by the field that chooses one
QUANTILE_BASES: Final = tuple(name for name, term in BASES.items() if term.on_quantiles)


class LossSpec(Spec):
    """Loss `base_weight · base + rank_weight · (1 - rank correlation)`.

    With `regime` each day is weighted so that every market regime has the same total weight, within [.5, 2], mean 1.
    """

    base: BaseName = "huber"
    base_weight: float = Field(1.0, ge=0.0)
    rank_weight: float = Field(0.1, ge=0.0)
    rank: RankName = "pearson_rank"
    rank_tau: float = Field(0.3, gt=0.0)
    horizon_weights: tuple[float, ...] | None = None
    regime: Literal["volatility_correlation"] | None = None

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if self.base_weight == 0 and self.rank_weight == 0:
            refuse("/rank_weight", "base_weight and rank_weight are both 0: nothing would be learned")
        if self.horizon_weights is not None and (
            min(self.horizon_weights, default=0) < 0 or sum(self.horizon_weights) <= 0
        ):
            refuse("/horizon_weights", "horizon weights are ≥ 0 with a positive sum")
        return self

    @property
    def base_term(self) -> LossTerm:
        return BASES[self.base]

    @property
    def rank_term(self) -> LossTerm:
        return RANKS[self.rank]
