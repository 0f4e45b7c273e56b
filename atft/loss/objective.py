"""The loss of a step: `base_weight · base + rank_weight · (1 - ρ)`, mean over days, then weighted horizons."""

import pkgutil
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from atft.data.cache.batch import Batch
from atft.data.cache.reader import Cache
from atft.loss import terms
from atft.loss.regime import day_weights
from atft.model.network import Prediction
from atft.spec.data import DataSpec
from atft.spec.loss import LossSpec, LossTerm


class NoTargets(Exception):
    """No sample of the step has a known target, so that the loss is undefined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossValue:
    """Loss of a step: `total` is differentiable; `parts` are the unweighted terms, detached (`base`, `rank` = 1 - ρ).

    A term is the mean over the days on which it is defined, each multiplied by its day weight, if any. `num_days`
    counts all days of the step; `num_skipped_days` those without any defined term (fewer than `min_names` known
    samples); `num_constant_days` those with a base term but no rank term, because the prediction is constant.
    """

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]
    num_days: int
    num_skipped_days: int
    num_constant_days: int


class Objective:
    """The loss function of a training.

    `day_weights`: one for each day of the cache, of mean 1 over the training days; None weights all days equally.
    """

    def __init__(self, loss: LossSpec, data: DataSpec, day_weights: Float[np.ndarray, " day"] | None = None) -> None:
        if (day_weights is None) != (loss.regime is None):
            raise ValueError("day weights belong to loss.regime, and it to them")
        self.day_weights = day_weights
        self.loss = loss
        self.min_names = data.min_names
        self.horizon_weights = loss.horizon_weights or (1.0,) * len(data.horizons)
        if len(self.horizon_weights) != len(data.horizons):
            raise ValueError(f"{len(self.horizon_weights)} horizon weights for {len(data.horizons)} horizons")

    def __call__(self, prediction: Prediction, batch: Batch) -> LossValue:
        """Raises NoTargets. A NaN prediction of a known sample makes the total NaN."""
        ranked = batch.ranked.unsqueeze(-1)
        known, known_ranks = torch.isfinite(batch.labels) & ranked, torch.isfinite(batch.ranks) & ranked
        total = prediction.scores.new_zeros(())
        parts: dict[str, Float[Tensor, ""]] = {}
        counts = torch.zeros(batch.num_days, dtype=torch.bool, device=known.device)
        constant = counts
        if self.loss.base_weight > 0:
            value, defined = self._base(prediction, batch, known)
            base = self._mean(value, defined, batch)
            total = total + self.loss.base_weight * base
            parts["base"] = base.detach()
            counts = defined.any(dim=1)
        if self.loss.rank_weight > 0:
            rho, defined = self._rank(prediction, batch, known_ranks)
            rank = self._mean(torch.where(defined, 1 - rho, 0.0), defined, batch)
            total = total + self.loss.rank_weight * rank
            parts["rank"] = rank.detach()
            constant = counts & ~defined.any(dim=1)
            counts = counts | defined.any(dim=1)
        # A single transfer from the device.
        counters = torch.stack([(known | known_ranks).any().long(), counts.sum(), constant.sum()])
        any_known, num_counted, num_constant = counters.tolist()
        if not any_known:
            raise NoTargets(f"none of {len(batch.day)} samples on {batch.num_days} days has a known target")
        return LossValue(
            total=total,
            parts=parts,
            num_days=batch.num_days,
            num_skipped_days=batch.num_days - num_counted,
            num_constant_days=num_constant,
        )

    def _base(self, prediction: Prediction, batch: Batch, known: Bool[Tensor, "stock horizon"]) -> terms.Term:
        row = self.loss.base_term
        if not row.on_quantiles:
            return self._term(row, prediction.scores, batch.labels, known, batch)
        if prediction.quantiles is None or prediction.levels is None:
            raise ValueError(f"the {self.loss.base} loss needs a network with quantiles")
        return self._term(row, prediction.quantiles, batch.labels, known, batch, levels=prediction.levels)

    def _rank(self, prediction: Prediction, batch: Batch, known: Bool[Tensor, "stock horizon"]) -> terms.Term:
        return self._term(self.loss.rank_term, prediction.scores, batch.ranks, known, batch)

    def _term(
        self,
        row: LossTerm,
        predicted: Float[Tensor, "stock horizon *quantile"],
        target: Float[Tensor, "stock horizon"],
        known: Bool[Tensor, "stock horizon"],
        batch: Batch,
        **more: object,
    ) -> terms.Term:
        """The term that `row` names, with the settings of the spec that it uses."""
        settings = {argument: getattr(self.loss, field) for field, argument in row.settings.items()}
        term: terms.Term = pkgutil.resolve_name(row.function)(
            predicted, target, known, batch.day, num_days=batch.num_days, min_names=self.min_names, **settings, **more
        )
        return term

    def _mean(
        self, value: Float[Tensor, "day horizon"], defined: Bool[Tensor, "day horizon"], batch: Batch
    ) -> Float[Tensor, ""]:
        """Mean over the defined days of each horizon, then weighted mean over the horizons that have any; 0 if none.

        Day weights are divided by the number of days, not their sum, so that micro-batches add up to the whole step.
        """
        if self.day_weights is not None:
            weights = torch.as_tensor(self.day_weights[batch.day_numbers], dtype=value.dtype, device=value.device)
            value = value * weights.unsqueeze(-1)
        days = defined.sum(dim=0)
        weight = torch.tensor(self.horizon_weights, dtype=value.dtype, device=value.device) * (days > 0)
        per_horizon = value.sum(dim=0) / days.clamp_min(1)
        return (per_horizon * weight).sum() / weight.sum().clamp_min(torch.finfo(value.dtype).tiny)


def make_objective(loss: LossSpec, data: DataSpec, cache: Cache, train: Int[np.ndarray, " train"]) -> Objective:
    """The objective of a run that trains on the day numbers `train` of `cache`."""
    return Objective(loss, data, day_weights(cache, train) if loss.regime is not None else None)
