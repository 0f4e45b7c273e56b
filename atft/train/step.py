"""One optimizer update: read, forward, backward over whole days, clip, step, average."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from atft.data.cache.batch import Batch
from atft.loss.objective import LossValue, NoTargets
from atft.model.masking import Guess
from atft.spec.reason import Reason
from atft.train.evaluate import read
from atft.train.preflight import gradient_norms
from atft.train.report import RunError
from atft.train.seed import mix
from atft.train.setup import Assembly
from atft.train.telemetry import Timers

Days = Int64[np.ndarray, " day"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """Sums over the update's counted days (days on which the loss is defined); `grad_norm` before clipping, None when
    nothing was counted.
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
    """Holds what an update needs; one call is one update."""

    def __init__(
        self, assembly: Assembly, timers: Timers, *, micro_batch_days: int, heartbeat: Callable[[int], None]
    ) -> None:
        self._assembly = assembly
        self._timers = timers
        self._micro_batch_days = micro_batch_days
        self._heartbeat = heartbeat

    def __call__(self, runs: list[Days], *, epoch: int, position: int, first: bool) -> Update:
        """One update from `runs` (each one step of whole consecutive days; `accumulate` of them), mean over all their
        counted days.

        Randomness of the step at `position` of `epoch` depends on nothing but (seed, epoch, position). `first`:
        measure the gradient of each
        module. Raises RunError (nan_loss).
        """
        assembly = self._assembly
        pieces = [
            (position + i, run[start : start + self._micro_batch_days])
            for i, run in enumerate(runs)
            for start in range(0, len(run), self._micro_batch_days)
        ]
        assembly.optimizer.zero_grad(set_to_none=True)
        loss_sum, counted, skipped, samples, seeded = 0.0, 0, 0, 0, -1
        part_sums: dict[str, float] = {}
        for place, days in pieces:
            if place != seeded:
                torch.manual_seed(mix(assembly.spec.seed, epoch, place))
                seeded = place
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
            return read(self._assembly.reader, days)

    def _forward(self, batch: Batch) -> LossValue | None:
        assembly = self._assembly
        with self._timers("forward"):
            with torch.autocast(assembly.device.type, dtype=assembly.autocast, enabled=assembly.autocast is not None):
                prediction = assembly.network(batch)
            try:
                return assembly.objective(prediction, batch)
            except NoTargets:
                return None  # counted as skipped; an epoch of nothing else is an error

    def _backward(self, value: LossValue, weight: int, days: Days) -> float:
        with self._timers("backward"):
            loss = float(value.total.detach())
            if not math.isfinite(loss):
                raise RunError(
                    Reason.NAN_LOSS,
                    f"the loss is {loss} on {self._broken(days)}: look for huge feature values there, lower the "
                    "learning rate or clip_norm",
                )
            if value.total.requires_grad:  # not where stochastic depth has skipped all that a phase trains
                torch.autograd.backward(value.total * weight)
        return loss

    def _broken(self, days: Days) -> str:
        """The days of a broken micro-batch that are broken by themselves, with the weights as they are; all of them
        if none is.
        """
        network = self._assembly.network.eval()
        broken = []
        with torch.no_grad():
            for day in days:
                batch = read(self._assembly.reader, np.asarray([day]))
                if batch is not None:
                    said = network(batch)
                    values = said.inputs if isinstance(said, Guess) else said.scores
                    if not bool(torch.isfinite(values[batch.ranked]).all()):
                        broken.append(day)
        return ", ".join(str(date) for date in self._assembly.cache.days[broken or days])

    def _step(self, pieces: list[Days], divisor: int, *, measure: bool) -> tuple[float, dict[str, float]]:
        assembly = self._assembly
        parameters = [p for p in assembly.network.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if divisor != 1:
            for gradient in gradients:
                gradient.div_(divisor)
        modules = gradient_norms(assembly.network, only_reached=True) if measure else {}
        total = torch.nn.utils.get_total_norm(gradients)
        norm = float(total)
        if not math.isfinite(norm):
            dates = assembly.cache.days[np.concatenate(pieces)]
            raise RunError(
                Reason.NAN_LOSS,
                f"the gradient's norm is {norm} on {dates.min()} to {dates.max()}: lower the learning rate, or look "
                "for huge values there",
            )
        if assembly.spec.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, assembly.spec.optimizer.clip_norm, total)
        assembly.optimizer.step()
        if assembly.ema is not None:
            assembly.ema.update_parameters(assembly.network)
        return norm, modules
