"""Spec of a pretraining: self-supervised training of the encoder, for a later training to start from (`init_from`)."""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from atft.spec.base import refuse
from atft.spec.job import RunSpec
from atft.spec.metric import TRAIN, VAL_LOSS
from atft.spec.model import Module, Sizes, encoder_sizes, linear
from atft.spec.training import TrainerSpec


class PretrainTrainer(TrainerSpec):
    """As in a training, but the best epoch is always the one with the lowest validation loss, and phases have no loss
    of their own.
    """

    objective: Literal["val/loss"] = "val/loss"


class PretrainSpec(RunSpec):
    """Pretraining without labels by masked prediction, with an optional contrastive loss.

    The inputs of the last day of `mask_ratio` of each day's stocks are masked, and predicted from the other stocks'
    inputs of that day (through the graph) and the stock's own past. `contrast_weight` adds InfoNCE between successive
    days of one stock, with cosine similarities divided by `temperature`. Horizons and gap only limit the usable days.
    """

    scored: ClassVar[bool] = False

    trainer: PretrainTrainer = PretrainTrainer()
    task: Literal["masked"] = "masked"
    mask_ratio: float = Field(0.15, gt=0.0, le=0.5)
    contrast_weight: float = Field(0.0, ge=0.0)
    temperature: float = Field(0.07, gt=0.0)

    @property
    def min_days_per_step(self) -> int:
        return 2 if self.contrast_weight > 0 else 1  # a contrast compares two successive days

    def parameter_sizes(self, num_features: int) -> Mapping[Module, Sizes]:
        hidden = self.model.hidden_size
        views = linear(hidden, hidden) if self.contrast_weight > 0 else ()
        heads = (hidden, *linear(hidden, num_features), *views)
        return encoder_sizes(self.model, num_features, self.data.window) | {"heads": heads}

    @model_validator(mode="after")
    def _without_labels(self) -> Self:
        if self.model.quantiles is not None:
            refuse("/model/quantiles", "a pretraining has no scores: leave model.quantiles to the training after it")
        for index, rule in enumerate(self.trainer.stop_rules):
            if not rule.metric.startswith((f"{TRAIN}/", VAL_LOSS)):
                refuse(
                    f"/trainer/stop_rules/{index}/metric",
                    f"a pretraining has no {rule.metric}: give {TRAIN}/… or {VAL_LOSS}",
                )
        return self
