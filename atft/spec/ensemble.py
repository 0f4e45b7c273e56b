"""Spec of an ensemble: one training per seed, whose scores are averaged by rank."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from atft.spec.base import Spec, refuse
from atft.spec.job import TrainSpec
from atft.spec.metric import VAL_LOSS

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class EnsembleSpec(Spec):
    """One training of `base` per seed, in the order of `seeds`; `base.seed` is left out, and its split has one fold.

    A score is the mean over members of the stock's rank among the day's ranked stocks, (rank - ½) / number of stocks.
    `base.trainer.timeout_seconds` limits all members together.
    """

    run_pointer: ClassVar[str] = "/base"

    base: TrainSpec
    seeds: tuple[Seed, ...] = Field(min_length=2, max_length=32)

    @property
    def run(self) -> TrainSpec:
        return self.base

    @property
    def members(self) -> tuple[TrainSpec, ...]:
        """The training of each seed."""
        return tuple(self.base.model_copy(update={"seed": seed}) for seed in self.seeds)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            refuse("/seeds", "list each seed once: two members of one seed are the same model")
        if self.base.seed != 0:
            refuse("/base/seed", "the members' seeds are those of `seeds`: leave base.seed out")
        if self.base.trainer.objective == VAL_LOSS:
            refuse(
                "/base/trainer/objective", f"an average of ranks has no {VAL_LOSS}: choose the epochs by another metric"
            )
        folds = self.base.split.num_splits
        if folds > 1:
            refuse(
                "/base/split/folds",
                f"an ensemble is of one fold, and this split has {folds}: submit an ensemble for each, or one training",
            )
        return self
