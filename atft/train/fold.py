"""Training on one fold: epochs of whole-day steps with validation after each, until the last epoch or a stop rule.

Every step is seeded from (seed, epoch, position), so that a checkpoint needs no random generator's state.
"""

import time

from atft.data.cache.labels import undefined_targets
from atft.events import Metrics
from atft.spec.metric import (
    GRAD_NORM,
    LOSS,
    LR,
    SAMPLES_PER_SECOND,
    SKIPPED_DAYS,
    STEP,
    TIME,
    TRAIN,
    VAL,
    full_name,
)
from atft.spec.reason import Reason
from atft.train import checkpoint, phases
from atft.train.evaluate import validate
from atft.train.fold_mean import with_fold_names
from atft.train.report import MAX_STEP_POINTS, RunError
from atft.train.run import Run
from atft.train.step import Stepper, Update
from atft.train.stopping import decide_stop, improves


class FoldTraining:
    """Trains the run's current fold, and saves the best epoch's weights in its folder."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.setup = run.setup
        self.spec = run.setup.spec
        self.state = run.state.fold
        self.timers = run.timers
        self.stepper = Stepper(
            self.setup,
            self.timers,
            micro_batch_days=run.state.micro_batch_days,
            heartbeat=self._train_beat,
        )
        self.train_start, self.train_samples = time.monotonic(), 0
        self.steps = 0

    def __call__(self) -> None:
        """Train the fold. Raises RunError, StopRequested."""
        state = self.state
        while state.end_reason is None and state.epoch < self.spec.trainer.max_epochs:
            if not state.trained:
                self._train_epoch()
            self._validate_epoch()
        if state.best_epoch == 0:
            raise RunError(
                Reason.OBJECTIVE_MISSING,
                f"{self.spec.trainer.objective} was undefined in each of {state.epoch} epochs{self.run.fold_suffix()}: "
                + self._undefined_reason(),
            )

    def _undefined_reason(self) -> str:
        wrong = undefined_targets(self.setup.cache, self.spec.data, self.setup.split.val)
        if not wrong:
            return "the scores are constant, or too few of the validation days' stocks have a score"
        return "; ".join(f"on the validation days the targets of {h} days are {why}" for h, why in wrong.items())

    def _train_epoch(self) -> None:
        state, trainer, setup = self.state, self.spec.trainer, self.setup
        steps = setup.reader.runs(setup.split.train, setup.days_per_step, self.spec.seed, state.epoch)[
            : trainer.max_steps_per_epoch
        ]
        if state.position == 0 and phases.begins(setup, state.epoch):
            phases.enter(setup, state.epoch)
        if len(state.lr_by_epoch) == state.epoch:
            state.lr_by_epoch.append(self._lr())
            state.batches_by_epoch.append(len(steps))
            state.samples_by_epoch.append(0)
        self.train_start, self.train_samples, self.steps = time.monotonic(), 0, len(steps)
        stride = -(
            -len(steps) // (trainer.accumulate * MAX_STEP_POINTS)
        )  # evenly thinned, and the same rows after a resume
        setup.network.train()
        while state.position < len(steps):
            self.run.check()
            group = steps[state.position : state.position + trainer.accumulate]
            update = self.stepper(
                group,
                epoch=state.epoch,
                position=state.position,
                first=phases.lacks_gradient_norms(setup, state.gradient_norms),
            )
            self._count(update, len(group))
            update_number = -(-state.position // trainer.accumulate)
            if update.grad_norm is not None and (update_number % stride == 0 or state.position >= len(steps)):
                self.run.reporter.metrics(
                    Metrics(
                        step=self.run.state.updates,
                        values={
                            full_name(STEP, LOSS): update.loss,
                            full_name(STEP, LR): self._lr(),
                            full_name(STEP, GRAD_NORM): update.grad_norm,
                        },
                    )
                )
            self.run.send_evidence_once()
            if self.run.save_is_due and state.position < len(steps):
                self.run.save()
        if not state.loss_days:
            raise RunError(
                Reason.INVALID_PARAMS,
                f"no training day of epoch {state.epoch + 1}{self.run.fold_suffix()} has data.min_names = "
                f"{self.spec.data.min_names} samples with a known target: nothing can be learned",
            )
        if state.epoch + 1 < trainer.max_epochs and not phases.begins(setup, state.epoch + 1):
            setup.scheduler.step()
        state.trained = True

    def _count(self, update: Update, num_steps: int) -> None:
        state = self.state
        state.position += num_steps
        self.run.state.updates += update.grad_norm is not None
        state.loss_sum += update.loss_sum
        state.loss_days += update.counted_days
        state.skipped_days += update.skipped_days
        state.samples_by_epoch[-1] += update.samples
        for name, value in update.part_sums.items():
            state.part_sums[name] = state.part_sums.get(name, 0.0) + value
        if update.module_norms:
            state.gradient_norms = {**update.module_norms, **state.gradient_norms}
        self.train_samples += update.samples
        if self.setup.graph is not None:
            self.timers.move(self.setup.graph.take_seconds(), "data", "graph")

    def _validate_epoch(self) -> None:
        state, setup = self.state, self.setup
        train_seconds = time.monotonic() - self.train_start
        with self.timers("validation"):
            validation = validate(
                setup,
                micro_batch_days=self.run.state.micro_batch_days,
                heartbeat=self.run.heartbeat("validate", setup.fold, state.epoch, len(setup.split.val)),
            )
        if self.setup.graph is not None:
            self.setup.graph.take_seconds()  # already counted as validation
        values: dict[str, float | None] = {
            full_name(TRAIN, LOSS): state.loss_sum / state.loss_days,
            **{full_name(TRAIN, f"{LOSS}_{name}"): value / state.loss_days for name, value in state.part_sums.items()},
            full_name(TRAIN, LR): state.lr_by_epoch[-1],
            full_name(TRAIN, SKIPPED_DAYS): float(state.skipped_days),
            **validation.values,
        }
        improved = self._improve(values)
        state.epoch += 1
        state.begin_epoch()
        decision = decide_stop(
            self.spec.trainer, state.rules, epoch=state.epoch, bad_epochs=state.bad_epochs, values=values
        )
        if decision is not None:
            state.end_reason, state.end_message = decision.reason, decision.message
            self.run.reporter.log(decision.message + self.run.fold_suffix())
        self._report_epoch(values, train_seconds, best=improved)
        if validation.degenerate:
            raise RunError(
                Reason.DEGENERATE,
                f"on every validation day the scores of horizons {list(validation.degenerate)} are constant or nearly "
                f"so at epoch {state.epoch}{self.run.fold_suffix()}: lower the learning rate or weight decay",
            )
        self.run.save(best=improved)

    def _report_epoch(self, values: dict[str, float | None], train_seconds: float, *, best: bool) -> None:
        """Report an epoch's metrics. With several folds none is marked best: the run's best is a mean over
        folds, reported at the end.
        """
        folds = self.run.num_folds
        rate = self.train_samples / train_seconds if self.train_samples else None
        measured = {
            **values,
            full_name(TIME, SAMPLES_PER_SECOND): rate,
            **self.timers.take(),
            **self.run.sampler.take(),
        }
        self.run.reporter.metrics(
            Metrics(
                step=self.state.epoch,
                values=with_fold_names(measured, self.setup.fold, folds),
                best=best and folds == 1,
            )
        )

    def _improve(self, values: dict[str, float | None]) -> bool:
        """Save this epoch's weights if it is the best, count towards early stopping, and return whether it is the best.

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
        waiting = trainer.phase_of(state.epoch)[0] == last_phase  # earlier phases always run to their end
        state.bad_epochs = 0 if patience_reset or not waiting else state.bad_epochs + 1
        if patience_reset:
            state.reference = value
        if value is None or not improves(trainer.objective, value, state.best_value):
            return False
        state.best_epoch, state.best_value = state.epoch + 1, value
        state.best_metrics = {name: v for name, v in values.items() if name.startswith((f"{VAL}/", f"{TRAIN}/"))}
        state.best_sha256 = checkpoint.save_weights(
            self.run.best_weights(),
            self.setup.evaluation_network.state_dict(),
            {"epoch": state.best_epoch, "features_sha256": self.run.identity["features_sha256"]},
        )
        return True

    def _lr(self) -> float:
        return float(self.setup.optimizer.param_groups[0]["lr"])

    def _train_beat(self, samples: int) -> None:
        spent = max(1e-9, time.monotonic() - self.train_start)
        self.run.reporter.progress(
            "train",
            fold=self.setup.fold,
            epoch=self.state.epoch,
            step=self.state.position,
            steps=self.steps,
            samples_per_second=(self.train_samples + samples) / spent,
        )
