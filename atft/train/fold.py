"""The training on one fold: epochs of whole-day steps, validation after each, until the last or until a rule says so.

It draws no random number of its own: every step is seeded from (seed, epoch, position), so a checkpoint needs no
generator's state.
"""

import time

from atft.events import Metrics
from atft.spec.reason import Reason
from atft.train import checkpoint, phases
from atft.train.averages import in_fold
from atft.train.evaluate import validate
from atft.train.report import STEP_POINTS, RunError
from atft.train.run import Attempt
from atft.train.step import Stepper, Update
from atft.train.stopping import ending, improves


class FoldTraining:
    """Brings the attempt's fold under way to its end, keeping the best epoch's weights in its folder."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.assembly = attempt.assembly
        self.spec = attempt.assembly.spec
        self.state = attempt.state.fold
        self.timers = attempt.timers
        self.stepper = Stepper(
            self.assembly,
            self.timers,
            micro_batch_days=attempt.state.micro_batch_days,
            heartbeat=self._train_beat,
        )
        self.train_start, self.train_samples = time.monotonic(), 0
        self.steps = 0

    def __call__(self) -> None:
        """Raises RunError; StopRequested, when somebody asked for that."""
        state = self.state
        while state.end_reason is None and state.epoch < self.spec.trainer.max_epochs:
            if not state.trained:
                self._train_epoch()
            self._validate_epoch()
        if state.best_epoch == 0:
            raise RunError(
                Reason.OBJECTIVE_MISSING,
                f"{self.spec.trainer.objective} was undefined in each of {state.epoch} epochs{self.attempt.of_fold()}: "
                "the validation days have too few stocks with known targets (data.min_names "
                f"{self.spec.data.min_names}), or the scores are constant",
            )

    def _train_epoch(self) -> None:
        state, trainer, assembly = self.state, self.spec.trainer, self.assembly
        runs = assembly.reader.runs(assembly.split.train, assembly.days_per_step, self.spec.seed, state.epoch)[
            : trainer.max_steps_per_epoch
        ]
        if state.position == 0 and phases.begins(assembly, state.epoch):
            phases.enter(assembly, state.epoch)
        if len(state.lr_by_epoch) == state.epoch:
            state.lr_by_epoch.append(self._lr())
            state.batches_by_epoch.append(len(runs))
            state.samples_by_epoch.append(0)
        self.train_start, self.train_samples, self.steps = time.monotonic(), 0, len(runs)
        stride = -(-len(runs) // (trainer.accumulate * STEP_POINTS))  # evenly thinned, and the same rows after a resume
        assembly.network.train()
        while state.position < len(runs):
            self.attempt.check()
            group = runs[state.position : state.position + trainer.accumulate]
            update = self.stepper(
                group,
                epoch=state.epoch,
                position=state.position,
                first=phases.unmeasured(assembly, state.gradient_norms),
            )
            self._count(update, len(group))
            place = -(-state.position // trainer.accumulate)
            if update.grad_norm is not None and (place % stride == 0 or state.position >= len(runs)):
                self.attempt.reporter.metrics(
                    Metrics(
                        step=self.attempt.state.updates,
                        values={"step/loss": update.loss, "step/lr": self._lr(), "step/grad_norm": update.grad_norm},
                    )
                )
            self.attempt.tell_evidence_once()
            if self.attempt.save_is_due and state.position < len(runs):
                self.attempt.save()
        if not state.loss_days:
            raise RunError(
                Reason.INVALID_PARAMS,
                f"no training day of epoch {state.epoch + 1}{self.attempt.of_fold()} has data.min_names = "
                f"{self.spec.data.min_names} samples with a known target: nothing can be learned",
            )
        if state.epoch + 1 < trainer.max_epochs and not phases.begins(assembly, state.epoch + 1):
            assembly.scheduler.step()
        state.trained = True

    def _count(self, update: Update, num_steps: int) -> None:
        state = self.state
        state.position += num_steps
        self.attempt.state.updates += update.grad_norm is not None
        state.loss_sum += update.loss_sum
        state.loss_days += update.counted_days
        state.skipped_days += update.skipped_days
        state.samples_by_epoch[-1] += update.samples
        for name, value in update.part_sums.items():
            state.part_sums[name] = state.part_sums.get(name, 0.0) + value
        if update.module_norms:
            state.gradient_norms = {**update.module_norms, **state.gradient_norms}
        self.train_samples += update.samples
        if self.assembly.graph is not None:
            self.timers.move(self.assembly.graph.take_seconds(), "data", "graph")

    def _validate_epoch(self) -> None:
        state, assembly = self.state, self.assembly
        train_seconds = time.monotonic() - self.train_start
        with self.timers("validation"):
            judged = validate(
                assembly,
                micro_batch_days=self.attempt.state.micro_batch_days,
                heartbeat=self.attempt.heartbeat("validate", assembly.fold, state.epoch, len(assembly.split.val)),
            )
        if self.assembly.graph is not None:
            self.assembly.graph.take_seconds()  # counted as validation already
        values: dict[str, float | None] = {
            "train/loss": state.loss_sum / state.loss_days,
            **{f"train/loss_{name}": value / state.loss_days for name, value in state.part_sums.items()},
            "train/lr": state.lr_by_epoch[-1],
            "train/skipped_days": float(state.skipped_days),
            **judged.values,
        }
        improved = self._improve(values)
        state.epoch += 1
        state.begin_epoch()
        stopping = ending(self.spec.trainer, state.rules, epoch=state.epoch, bad_epochs=state.bad_epochs, values=values)
        if stopping is not None:
            state.end_reason, state.end_message = stopping.reason, stopping.message
            self.attempt.reporter.log(stopping.message + self.attempt.of_fold())
        self._tell_epoch(values, train_seconds, best=improved)
        if judged.degenerate:
            raise RunError(
                Reason.DEGENERATE,
                f"on every validation day the scores of horizons {list(judged.degenerate)} are constant or nearly so "
                f"at epoch {state.epoch}{self.attempt.of_fold()}: lower the learning rate or weight decay",
            )
        self.attempt.save(best=improved)

    def _tell_epoch(self, values: dict[str, float | None], train_seconds: float, *, best: bool) -> None:
        """With several folds no epoch is the run's best: that is a mean over folds, which the end tells."""
        folds = self.attempt.num_folds
        speed = {"time/samples_per_second": self.train_samples / train_seconds if self.train_samples else None}
        measured = {**values, **speed, **self.timers.take(), **self.attempt.sampler.take()}
        self.attempt.reporter.metrics(
            Metrics(
                step=self.state.epoch,
                values=in_fold(measured, self.assembly.fold, folds),
                best=best and folds == 1,
            )
        )

    def _improve(self, values: dict[str, float | None]) -> bool:
        """Keep this epoch's weights if it is the best; count towards early stopping.

        An undefined objective is no improvement.
        """
        state, trainer = self.state, self.spec.trainer
        value = values.get(trainer.objective)
        patience_reset = value is not None and improves(
            trainer.objective,
            value,
            state.reference,
            trainer.early_stopping.min_delta if trainer.early_stopping else 0.0,
        )
        last_phase, _ = trainer.phase_of(trainer.max_epochs - 1)
        waiting = trainer.phase_of(state.epoch)[0] == last_phase  # an earlier phase runs to its end: others follow it
        state.bad_epochs = 0 if patience_reset or not waiting else state.bad_epochs + 1
        if patience_reset:
            state.reference = value
        if value is None or not improves(trainer.objective, value, state.best_value):
            return False
        state.best_epoch, state.best_value = state.epoch + 1, value
        state.best_metrics = {name: v for name, v in values.items() if name.startswith(("val/", "train/"))}
        checkpoint.save_weights(
            self.attempt.best_weights(),
            self.assembly.evaluated.state_dict(),
            {"epoch": state.best_epoch, "features_sha256": self.attempt.identity["features_sha256"]},
        )
        return True

    def _lr(self) -> float:
        return float(self.assembly.optimizer.param_groups[0]["lr"])

    def _train_beat(self, samples: int) -> None:
        spent = max(1e-9, time.monotonic() - self.train_start)
        self.attempt.reporter.progress(
            "train",
            fold=self.assembly.fold,
            epoch=self.state.epoch,
            step=self.state.position,
            steps=self.steps,
            samples_per_second=(self.train_samples + samples) / spent,
        )
