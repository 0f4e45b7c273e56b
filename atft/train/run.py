"""A training run in progress: its setup, state, checkpoints, and evidence."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pydantic

from atft.checksums import write_atomic
from atft.evidence.models import BaselineEvidence, EarlyEvidence, TrainingEvidence
from atft.spec.reason import Reason
from atft.train import checkpoint, phases
from atft.train.evidence import evidence, git_state
from atft.train.preflight import PreflightReport
from atft.train.report import Reporter, RunError, StopRequested
from atft.train.setup import TrainingSetup, checkpoint_identity, reset_for_fold
from atft.train.state import FoldState, RunState
from atft.train.stopping import StoppingState
from atft.train.system_metrics import SystemSampler, Timers

CHECKPOINTS = "checkpoints"


class Run:
    """One run, new or resumed from a checkpoint; `setup` and `state.fold` are those of the current fold."""

    def __init__(
        self,
        setup: TrainingSetup,
        out: Path,
        reporter: Reporter,
        stop: Callable[[], bool],
        sampler: SystemSampler,
        report: PreflightReport,
        *,
        resume: Path | None,
        max_days: int | None,
    ) -> None:
        self.setup = setup
        self.spec = setup.spec
        self.out = out
        self.reporter = reporter
        self.sampler = sampler
        self.timers = Timers(setup.device)
        self.identity = checkpoint_identity(setup)
        self.state = RunState(micro_batch_days=report.micro_batch_days, folds=[self._fold_state()])
        self._stop = stop
        self._git = git_state()
        self._evidence_sent = False
        self.baselines: dict[str, list[BaselineEvidence]] = {}  # what each was fitted on, by fold
        out.mkdir(parents=True, exist_ok=True)
        if resume is not None:
            self._restore(resume)
        if max_days is not None:
            self.state.micro_batch_days = min(self.state.micro_batch_days, max_days)
        spared = max(0, report.micro_batch_days - self.state.micro_batch_days) * report.host_bytes_per_day
        needed = report.needed_bytes - spared
        self._memory: dict[str, object] = {"needed_bytes": needed, "free_bytes": report.free_bytes, "fits": True}
        early = {"micro_batch_days": self.state.micro_batch_days, "memory": self._memory}
        reporter.evidence(EarlyEvidence.model_validate(early))
        self._clock = self._saved_at = time.monotonic()

    @property
    def num_folds(self) -> int:
        return len(self.setup.splits)

    def _fold_state(self) -> FoldState:
        return FoldState(seed=self.setup.spec.seed, rules=[StoppingState() for _ in self.spec.trainer.stop_rules])

    def begin_fold(self) -> None:
        """Start the next fold or member, with new weights, optimizer and scheduler."""
        self.setup = reset_for_fold(self.setup, len(self.state.folds), self.reporter)
        self.state.folds.append(self._fold_state())

    def best_weights(self) -> Path:
        """File of the current fold's best weights."""
        return self.out / checkpoint.best_name(self.setup.fold, self.num_folds)

    def read_best(self, number: int) -> bytes:
        """The file of the best weights of a fold, from 0. Raises RunError if it is not what the run wrote."""
        name = checkpoint.best_name(number, self.num_folds)
        content = (self.out / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.state.folds[number].best_sha256:
            raise RunError(Reason.DATA_CHANGED, checkpoint.altered(name))
        return content

    def heartbeat(self, phase: str, fold: int, epoch: int, num_days: int) -> Callable[[int], None]:
        """A callback for evaluation: reports the days done and raises when the run must stop."""

        def beat(done: int) -> None:
            self.reporter.progress(phase, fold=fold, epoch=epoch, step=done, steps=num_days)
            self.check()

        return beat

    def check(self) -> None:
        """Raise StopRequested or RunError (timeout_exec) when the run must stop; called between updates."""
        if self._stop():
            raise StopRequested
        limit, spent = self.spec.trainer.timeout_seconds, self.state.elapsed_seconds + time.monotonic() - self._clock
        if limit is not None and spent > limit:
            raise RunError(
                Reason.TIMEOUT_EXEC,
                f"the run has taken {spent:.0f} s of the {limit:.0f} s that trainer.timeout_seconds allows, in epoch "
                f"{self.state.fold.epoch + 1}{self.fold_suffix()}",
            )

    def fold_suffix(self, number: int | None = None) -> str:
        """' of fold 2' for messages, empty in a run with one fold; `number` counts from 0."""
        fold = self.setup.fold if number is None else number
        return f" of {self.fold_name(fold)}" if self.num_folds > 1 else ""

    def fold_name(self, fold: int) -> str:
        """Name of the fold or member numbered from 0."""
        ensemble = self.setup.ensemble
        return f"fold {fold + 1}" if ensemble is None else f"member {fold + 1} (seed {ensemble.seeds[fold]})"

    def send_evidence_once(self) -> None:
        if not self._evidence_sent:
            self.send_evidence()

    def send_evidence(self) -> TrainingEvidence:
        self.sampler.look()
        memory = self._memory | {"rss_peak_bytes": self.sampler.peak_bytes}
        peak = self.sampler.peak_threads
        body = evidence(
            self.setup, self.state, os_threads_peak=peak, git=self._git, memory=memory, baselines=self.baselines
        )
        self.reporter.evidence(body)
        self._evidence_sent = True
        return body

    @property
    def save_is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.spec.trainer.checkpoint_every_seconds

    def save(self, *, best: bool = False) -> str:
        """Write a checkpoint, report it once it is on disk, and return its path relative to `out`. Raises RunError."""
        state, setup = self.state, self.setup
        now = time.monotonic()
        state.elapsed_seconds += now - self._clock
        self._clock = now
        state.saves += 1
        name = f"{state.saves:06d}"
        tensors: dict[str, object] = {
            "optimizer": setup.optimizer.state_dict(),
            "scheduler": setup.scheduler.state_dict(),
            "ema": setup.ema.state_dict() if setup.ema is not None else None,
        }
        snapshot = checkpoint.Snapshot(
            weights=setup.network.state_dict(),
            state=tensors,
            loop=state.to_json(),
            identity=self.identity,
            best={
                self.out / checkpoint.best_name(number, self.num_folds): fold.best_sha256
                for number, fold in enumerate(state.folds)
                if fold.best_sha256 is not None
            },
        )
        try:
            digest = checkpoint.save(self.out / CHECKPOINTS, name, snapshot)
        except checkpoint.CheckpointError as error:
            raise RunError(Reason.DATA_CHANGED, str(error)) from error
        self._saved_at = time.monotonic()
        self.reporter.checkpointed(
            path=f"{CHECKPOINTS}/{name}",
            step=state.updates,
            fold=len(state.folds),
            epoch=state.fold.epoch,
            sha256=digest,
            best=best,
        )
        return f"{CHECKPOINTS}/{name}"

    def _restore(self, path: Path) -> None:
        try:
            snapshot = checkpoint.load(path, self.setup.device)
            self.state = RunState.from_json(snapshot.loop)
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
        if len(self.state.folds) > 1:
            self.setup = reset_for_fold(self.setup, len(self.state.folds) - 1, self.reporter)
        phases.enter(self.setup, self.state.fold.epoch)
        self.setup.network.load_state_dict(snapshot.weights)
        self.setup.optimizer.load_state_dict(snapshot.state["optimizer"])  # type: ignore[arg-type] # what `save` put there
        self.setup.scheduler.load_state_dict(snapshot.state["scheduler"])  # type: ignore[arg-type]
        if self.setup.ema is not None:
            self.setup.ema.load_state_dict(snapshot.state["ema"])  # type: ignore[arg-type]
        by_name = {best.name: sha256 for best, sha256 in snapshot.best.items()}  # state of earlier versions has none
        for number, fold in enumerate(self.state.folds):
            fold.best_sha256 = by_name.get(checkpoint.best_name(number, self.num_folds))
        for best in snapshot.best:
            write_atomic(self.out / best.name, best.read_bytes())
