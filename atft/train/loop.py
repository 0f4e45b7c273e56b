"""The one training loop: epochs of whole-day steps, validation after each, a checkpoint that goes on bit for bit, the
test days once.

It draws no random number of its own: every step is seeded from (seed, epoch, position), so a checkpoint needs no
generator's state.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pydantic

from atft.data.cache import Cache
from atft.events import Event, Failed, Finished, Metrics, Stopped
from atft.spec.job import TrainSpec
from atft.spec.reason import Reason
from atft.train import checkpoint
from atft.train.conclusion import conclude
from atft.train.evaluate import judge, predict
from atft.train.evidence import evidence, git_state
from atft.train.preflight import PreflightReport, preflight
from atft.train.report import STEP_POINTS, Reporter, RunError, StopRequested
from atft.train.rules import RuleState, ending, improves
from atft.train.setup import Assembly, assemble, identity
from atft.train.state import LoopState
from atft.train.step import Stepper, Update
from atft.train.telemetry import SystemSampler, Timers

CHECKPOINTS = "checkpoints"
BEST = "best.safetensors"


def train(
    spec: TrainSpec,
    cache: Cache,
    out: Path,
    emit: Callable[[Event], None],
    stop: Callable[[], bool],
    resume: Path | None = None,
    *,
    test: bool = True,
    preflight_only: bool = False,
    most_days: int | None = None,
) -> Finished | Stopped | Failed:
    """Run `spec` on `cache`, writing under `out` only; the returned event is the run's last word and has not been
    emitted.

    `stop` is asked between updates and during evaluation. `resume` is a checkpoint's folder, of this run or an
    earlier attempt.
    `most_days` bounds a micro-batch, whatever preflight or the checkpoint says: the same updates in smaller pieces.
    Without `test` neither test days nor baselines are touched (trials); with `preflight_only` nothing is trained.
    """
    reporter = Reporter(emit, epochs=spec.trainer.max_epochs)
    try:
        reporter.progress("build")
        assembly = assemble(spec, cache, reporter)
        report = preflight(assembly, reporter)
        if preflight_only:
            return Finished(result={"preflight": asdict(report)})
        with SystemSampler(assembly.device, spec.resources.threads) as sampler:
            run = Run(assembly, out, reporter, stop, sampler, report, resume=resume, most_days=most_days)
            return run(test=test)
    except RunError as error:
        return Failed(reason=error.reason, message=str(error))


class Run:
    """One attempt, from a checkpoint or from the start, to its end or to a request to stop."""

    def __init__(
        self,
        assembly: Assembly,
        out: Path,
        reporter: Reporter,
        stop: Callable[[], bool],
        sampler: SystemSampler,
        report: PreflightReport,
        *,
        resume: Path | None,
        most_days: int | None,
    ) -> None:
        self.assembly = assembly
        self.spec = assembly.spec
        self.out = out
        self.reporter = reporter
        self.stop = stop
        self.sampler = sampler
        self.timers = Timers(assembly.device)
        self.state = LoopState(
            micro_batch_days=report.micro_batch_days, rules=[RuleState() for _ in self.spec.trainer.stop_rules]
        )
        self.identity = identity(assembly)
        self.git = git_state()
        out.mkdir(parents=True, exist_ok=True)
        if resume is not None:
            self._restore(resume)
        if most_days is not None:
            self.state.micro_batch_days = min(self.state.micro_batch_days, most_days)
        self.memory = {"needed_bytes": report.needed_bytes, "free_bytes": report.free_bytes, "fits": True}
        reporter.evidence({"micro_batch_days": self.state.micro_batch_days, "memory": self.memory})
        self.stepper = Stepper(
            assembly, self.timers, micro_batch_days=self.state.micro_batch_days, heartbeat=self._train_beat
        )
        self.evidence_sent = False
        self.train_start, self.train_samples = time.monotonic(), 0
        self.steps = 0
        self.clock = self.saved_at = time.monotonic()

    def __call__(self, *, test: bool) -> Finished | Stopped:
        try:
            if self.state.saves == 0:
                self._save()  # fixes the micro-batch: a run killed before its first checkpoint repeats itself too
            while self.state.end_reason is None and self.state.epoch < self.spec.trainer.max_epochs:
                if not self.state.trained:
                    self._train_epoch()
                self._validate_epoch()
            if self.state.best_epoch == 0:
                raise RunError(
                    Reason.OBJECTIVE_MISSING,
                    f"{self.spec.trainer.objective} was undefined in each of {self.state.epoch} epochs: the "
                    "validation days have too few stocks with known targets (data.min_names "
                    f"{self.spec.data.min_names}), or the scores are constant",
                )
            return conclude(
                self.assembly,
                self.out,
                self.reporter,
                self.state,
                check=self._check,
                evidence=self._evidence,
                test=test,
            )
        except StopRequested:
            return Stopped(checkpoint=self._save(), step=self.state.updates)

    def _train_epoch(self) -> None:
        state, trainer, assembly = self.state, self.spec.trainer, self.assembly
        runs = assembly.reader.runs(assembly.split.train, assembly.days_per_step, self.spec.seed, state.epoch)[
            : trainer.max_steps_per_epoch
        ]
        if len(state.lr_by_epoch) == state.epoch:
            state.lr_by_epoch.append(self._lr())
            state.batches_by_epoch.append(len(runs))
            state.samples_by_epoch.append(0)
        self.train_start, self.train_samples, self.steps = time.monotonic(), 0, len(runs)
        stride = -(-len(runs) // (trainer.accumulate * STEP_POINTS))  # evenly thinned, and the same rows after a resume
        assembly.network.train()
        while state.position < len(runs):
            self._check()
            group = runs[state.position : state.position + trainer.accumulate]
            update = self.stepper(group, epoch=state.epoch, position=state.position, first=not state.gradient_norms)
            self._count(update, len(group))
            place = -(-state.position // trainer.accumulate)
            if update.grad_norm is not None and (place % stride == 0 or state.position >= len(runs)):
                self.reporter.metrics(
                    Metrics(
                        step=state.updates,
                        values={"step/loss": update.loss, "step/lr": self._lr(), "step/grad_norm": update.grad_norm},
                    )
                )
            if not self.evidence_sent:
                self._evidence()
            if time.monotonic() - self.saved_at >= trainer.checkpoint_every_seconds and state.position < len(runs):
                self._save()
        if not state.loss_days:
            raise RunError(
                Reason.INVALID_PARAMS,
                f"no training day of epoch {state.epoch + 1} has data.min_names = {self.spec.data.min_names} samples "
                "with a known target: nothing can be learned",
            )
        if state.epoch + 1 < trainer.max_epochs:
            assembly.scheduler.step()
        state.trained = True

    def _count(self, update: Update, num_steps: int) -> None:
        state = self.state
        state.position += num_steps
        state.updates += update.grad_norm is not None
        state.loss_sum += update.loss_sum
        state.loss_days += update.counted_days
        state.skipped_days += update.skipped_days
        state.samples_by_epoch[-1] += update.samples
        for name, value in update.part_sums.items():
            state.part_sums[name] = state.part_sums.get(name, 0.0) + value
        if update.module_norms:
            state.gradient_norms = update.module_norms
        self.train_samples += update.samples
        if self.assembly.graph is not None:
            self.timers.move(self.assembly.graph.take_seconds(), "data", "graph")

    def _validate_epoch(self) -> None:
        state, assembly = self.state, self.assembly
        train_seconds = time.monotonic() - self.train_start
        with self.timers("validation"):
            scored, loss = predict(
                assembly.evaluated,
                assembly.reader,
                assembly.objective,
                assembly.split.val,
                micro_batch_days=state.micro_batch_days,
                heartbeat=self._beat("validate", len(assembly.split.val)),
            )
            judged = judge(scored, assembly.cache, self.spec, "val")
        if self.assembly.graph is not None:
            self.assembly.graph.take_seconds()  # counted as validation already
        values: dict[str, float | None] = {
            "train/loss": state.loss_sum / state.loss_days,
            **{f"train/loss_{name}": value / state.loss_days for name, value in state.part_sums.items()},
            "train/lr": state.lr_by_epoch[-1],
            "train/skipped_days": float(state.skipped_days),
            "val/loss": loss,
            **judged.values,
        }
        improved = self._improve(values)
        state.epoch += 1
        state.begin_epoch()
        stopping = ending(self.spec.trainer, state.rules, epoch=state.epoch, bad_epochs=state.bad_epochs, values=values)
        if stopping is not None:
            state.end_reason, state.end_message = stopping.reason, stopping.message
            self.reporter.log(stopping.message)
        speed = {"time/samples_per_second": self.train_samples / train_seconds if self.train_samples else None}
        self.reporter.metrics(
            Metrics(
                step=state.epoch, values={**values, **speed, **self.timers.take(), **self.sampler.take()}, best=improved
            )
        )
        if judged.degenerate:
            raise RunError(
                Reason.DEGENERATE,
                f"on every validation day the scores of horizons {list(judged.degenerate)} are constant or nearly so "
                f"at epoch {state.epoch}: lower the learning rate or weight decay",
            )
        self._save(best=improved)

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
        state.bad_epochs = 0 if patience_reset else state.bad_epochs + 1
        if patience_reset:
            state.reference = value
        if value is None or not improves(trainer.objective, value, state.best_value):
            return False
        state.best_epoch, state.best_value = state.epoch + 1, value
        state.best_metrics = {name: v for name, v in values.items() if name.startswith(("val/", "train/"))}
        checkpoint.save_weights(
            self.out / BEST,
            self.assembly.evaluated.state_dict(),
            {"epoch": state.best_epoch, "features_sha256": self.identity["features_sha256"]},
        )
        return True

    def _lr(self) -> float:
        return float(self.assembly.optimizer.param_groups[0]["lr"])

    def _check(self) -> None:
        """Between two pieces of work: is there a reason to go no further?"""
        if self.stop():
            raise StopRequested
        limit, spent = self.spec.trainer.timeout_seconds, self.state.elapsed_seconds + time.monotonic() - self.clock
        if limit is not None and spent > limit:
            raise RunError(
                Reason.TIMEOUT_EXEC,
                f"the run has taken {spent:.0f} s of the {limit:.0f} s that trainer.timeout_seconds allows, in epoch "
                f"{self.state.epoch + 1}",
            )

    def _train_beat(self, samples: int) -> None:
        spent = max(1e-9, time.monotonic() - self.train_start)
        self.reporter.progress(
            "train",
            epoch=self.state.epoch,
            step=self.state.position,
            steps=self.steps,
            samples_per_second=(self.train_samples + samples) / spent,
        )

    def _beat(self, phase: str, num_days: int) -> Callable[[int], None]:
        def beat(done: int) -> None:
            self.reporter.progress(phase, epoch=self.state.epoch, step=done, steps=num_days)
            self._check()

        return beat

    def _evidence(self) -> dict[str, object]:
        state = self.state
        self.sampler.look()
        body = evidence(
            self.assembly,
            requested=self.spec,
            lr_by_epoch=state.lr_by_epoch,
            gradient_norms=state.gradient_norms,
            os_threads_peak=self.sampler.peak_threads,
            micro_batch_days=state.micro_batch_days,
            batches_by_epoch=state.batches_by_epoch,
            samples_by_epoch=state.samples_by_epoch,
            updates=state.updates,
            git=self.git,
        )
        body["memory"] = self.memory | {"rss_peak_bytes": self.sampler.peak_bytes}
        self.reporter.evidence(body)
        self.evidence_sent = True
        return body

    def _save(self, *, best: bool = False) -> str:
        """Write a checkpoint and tell of it once it is on disk; its path relative to `out`."""
        state, assembly = self.state, self.assembly
        now = time.monotonic()
        state.elapsed_seconds += now - self.clock
        self.clock = now
        state.saves += 1
        name = f"{state.saves:06d}"
        tensors: dict[str, object] = {
            "optimizer": assembly.optimizer.state_dict(),
            "scheduler": assembly.scheduler.state_dict(),
            "ema": assembly.ema.state_dict() if assembly.ema is not None else None,
        }
        snapshot = checkpoint.Snapshot(
            weights=assembly.network.state_dict(),
            state=tensors,
            loop=state.to_json(),
            identity=self.identity,
            best=self.out / BEST if state.best_epoch else None,
        )
        digest = checkpoint.save(self.out / CHECKPOINTS, name, snapshot)
        self.saved_at = time.monotonic()
        self.reporter.checkpointed(
            path=f"{CHECKPOINTS}/{name}", step=state.updates, epoch=state.epoch, sha256=digest, best=best
        )
        return f"{CHECKPOINTS}/{name}"

    def _restore(self, path: Path) -> None:
        try:
            snapshot = checkpoint.load(path, self.assembly.device)
            self.state = LoopState.from_json(snapshot.loop)
        except (checkpoint.CheckpointError, pydantic.ValidationError) as error:
            raise RunError(Reason.INTERNAL, f"cannot resume: {error}") from error
        for key, ours in self.identity.items():
            if snapshot.identity.get(key) != ours:
                reason = Reason.INVALID_PARAMS if key == "spec" else Reason.DATA_CHANGED
                raise RunError(
                    reason,
                    f"the checkpoint {path.name} belongs to another run: its {key} is {snapshot.identity.get(key)}, "
                    f"this run's is {ours}",
                )
        self.assembly.network.load_state_dict(snapshot.weights)
        self.assembly.optimizer.load_state_dict(snapshot.state["optimizer"])  # type: ignore[arg-type] # what `_save` put there
        self.assembly.scheduler.load_state_dict(snapshot.state["scheduler"])  # type: ignore[arg-type]
        if self.assembly.ema is not None:
            self.assembly.ema.load_state_dict(snapshot.state["ema"])  # type: ignore[arg-type]
        if snapshot.best is not None and snapshot.best.resolve() != (self.out / BEST).resolve():
            partial = self.out / f".{BEST}.partial"
            partial.unlink(missing_ok=True)
            checkpoint.link(snapshot.best, partial)
            partial.replace(self.out / BEST)
