"""One optimizer update: read the days, forward, backward by micro-batch, clip, step, update the EMA."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from atft.data.cache.batch import Batch
from atft.loss.objective import LossValue, NoTargets
from atft.model.masking import MaskedPrediction
from atft.spec.base import mix
from atft.spec.reason import Reason
from atft.train.evaluate import read_batch
from atft.train.preflight import gradient_norms
from atft.train.report import RunError
from atft.train.setup import TrainingSetup
from atft.train.system_metrics import Timers

Days = Int64[np.ndarray, " day"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """Result of one update: sums over its counted days (those on which the loss is defined); `grad_norm` is measured
    before clipping, None when no day counted.
    """

    loss_sum: float
    part_sums: dict[str, float]
    counted_days: int
    skipped_days: int
    samples: int
    grad_norm: float | None
    module_norms: dict[str, float]  # only for the first update

    @property
    def loss(self) -> float | None:
        return self.loss_sum / self.counted_days if self.counted_days else None


class Stepper:
    """Callable that makes one optimizer update of a training setup."""

    def __init__(
        self, setup: TrainingSetup, timers: Timers, *, micro_batch_days: int, heartbeat: Callable[[int], None]
    ) -> None:
        self._setup = setup
        self._timers = timers
        self._micro_batch_days = micro_batch_days
        self._heartbeat = heartbeat

    def __call__(self, steps: list[Days], *, epoch: int, position: int, first: bool) -> Update:
        """Make one update from `steps` (up to `accumulate` of them, each a batch of whole consecutive days) by the mean
        gradient over their counted days.

        The step at `position` of `epoch` is seeded by (seed, epoch, position) alone. `first`: also measure each
        module's gradient norm. Raises RunError (nan_loss).
        """
        setup = self._setup
        pieces = [
            (position + i, days[start : start + self._micro_batch_days])
            for i, days in enumerate(steps)
            for start in range(0, len(days), self._micro_batch_days)
        ]
        setup.optimizer.zero_grad(set_to_none=True)
        loss_sum, counted, skipped, samples, seeded = 0.0, 0, 0, 0, -1
        part_sums: dict[str, float] = {}
        for step, days in pieces:
            if step != seeded:
                torch.manual_seed(mix(setup.spec.seed, epoch, step))
                seeded = step
            batch = self._read(days)
            value = self._forward(batch) if batch is not None else None
            num = value.num_days - value.num_skipped_days if value is not None else 0
            if value is not None and num:
                loss_sum += self._backward(value, num if len(pieces) > 1 else 1, days) * num
                for name, part in value.parts.items():
                    part_sums[name] = part_sums.get(name, 0.0) + float(part) * num
            counted, skipped = counted + num, skipped + len(days) - num
            samples += int(batch.ranked.sum()) if batch is not None else 0
            self._heartbeat(samples)
        norm: float | None = None
        modules: dict[str, float] = {}
        if counted:
            with self._timers("optimizer"):
                norm, modules = self._step(
                    [days for _, days in pieces], counted if len(pieces) > 1 else 1, measure=first
                )
        return Update(
            loss_sum=loss_sum,
            part_sums=part_sums,
            counted_days=counted,
            skipped_days=skipped,
            samples=samples,
            grad_norm=norm,
            module_norms=modules,
        )

    def _read(self, days: Days) -> Batch | None:
        with self._timers("data"):
            return read_batch(self._setup.reader, days)

    def _forward(self, batch: Batch) -> LossValue | None:
        setup = self._setup
        with self._timers("forward"):
            with torch.autocast(setup.device.type, dtype=setup.autocast, enabled=setup.autocast is not None):
                prediction = setup.network(batch)
            try:
                return setup.objective(prediction, batch)
            except NoTargets:
                return None  # counted as skipped; an epoch of skipped days only is an error

    def _backward(self, value: LossValue, weight: int, days: Days) -> float:
        with self._timers("backward"):
            loss = float(value.total.detach())
            if not math.isfinite(loss):
                raise RunError(
                    Reason.NAN_LOSS,
                    f"the loss is {loss} on {self._non_finite_days(days)}: look for huge feature values there, "
                    "lower the learning rate or clip_norm",
                )
            if value.total.requires_grad:  # False where stochastic depth has skipped every module that the phase trains
                torch.autograd.backward(value.total * weight)
        return loss

    def _non_finite_days(self, days: Days) -> str:
        """Dates of the micro-batch's days whose outputs alone are not finite at the present weights; all its days when
        none is.
        """
        network = self._setup.network.eval()
        found = []
        with torch.no_grad():
            for day in days:
                batch = read_batch(self._setup.reader, np.asarray([day]))
                if batch is not None:
                    output = network(batch)
                    values = output.inputs if isinstance(output, MaskedPrediction) else output.scores
                    if not bool(torch.isfinite(values[batch.ranked]).all()):
                        found.append(day)
        return ", ".join(str(date) for date in self._setup.cache.days[found or days])

    def _step(self, pieces: list[Days], divisor: int, *, measure: bool) -> tuple[float, dict[str, float]]:
        setup = self._setup
        parameters = [p for p in setup.network.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if divisor != 1:
            for gradient in gradients:
                gradient.div_(divisor)
        modules = gradient_norms(setup.network, only_reached=True) if measure else {}
        total = torch.nn.utils.get_total_norm(gradients)
        norm = float(total)
        if not math.isfinite(norm):
            dates = setup.cache.days[np.concatenate(pieces)]
            raise RunError(
                Reason.NAN_LOSS,
                f"the gradient's norm is {norm} on {dates.min()} to {dates.max()}: lower the learning rate, or look "
                "for huge values there",
            )
        if setup.spec.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, setup.spec.optimizer.clip_norm, total)
        setup.optimizer.step()
        if setup.ema is not None:
            setup.ema.update_parameters(setup.network)
        return norm, modules
