"""Event reporting of a run (progress at a limited rate, metrics, logs), and the exceptions that end a run early."""

import math
import time
from collections.abc import Callable

from atft.events import Checkpointed, DailySeries, Event, Evidence, Log, Metrics, Progress
from atft.evidence.models import EvidenceModel
from atft.spec.reason import Reason

PROGRESS_SECONDS = 0.2
MAX_DAYS_PER_EVENT = 60_000  # of daily series: some 2 MB of the 8 MB that a line may have
TAIL = {"test": 0.9, "baselines": 0.95}  # progress at which each phase after the epochs starts
MAX_STEP_POINTS = 200  # rows of each step/ series in one epoch, at most


class RunError(Exception):
    """The run fails, with a reason that a client can act on."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StopRequested(Exception):
    """The run was asked to stop; the handler saves a checkpoint."""


class Reporter:
    """Sends events. `progress` is the heartbeat: called after each micro-batch, it emits at most a few a second."""

    def __init__(self, emit: Callable[[Event], None], *, epochs: int, folds: int = 1) -> None:
        self.emit = emit
        self._epochs = epochs
        self._folds = folds
        self._start = time.monotonic()
        self._first_ratio: float | None = None
        self._ratio = 0.0
        self._last_sent = 0.0
        self._last_call = self._start
        self._micro_batch_seconds = 0.0

    def progress(
        self,
        phase: str,
        *,
        fold: int = 0,
        epoch: int = 0,
        step: int = 0,
        steps: int = 0,
        samples_per_second: float | None = None,
    ) -> None:
        """`epoch` counts complete epochs of `fold` (from 0), `step` of `steps` is the position within the phase.

        The event counts the epochs of all folds; epochs that early stopping saved are skipped.
        """
        now = time.monotonic()
        self._micro_batch_seconds = max(self._micro_batch_seconds * 0.9, now - self._last_call)
        self._last_call = now
        ratio = self._ratio = max(self._ratio, self._progress_ratio(phase, fold, epoch, step / steps if steps else 0.0))
        if self._first_ratio is None:
            self._first_ratio = ratio
        if now - self._last_sent < PROGRESS_SECONDS:
            return
        self._last_sent = now
        done = ratio - self._first_ratio
        self.emit(
            Progress(
                phase=phase,
                epoch=fold * self._epochs + epoch,
                epochs=self._epochs * self._folds,
                step=step,
                steps=steps,
                ratio=ratio,
                samples_per_second=samples_per_second,
                eta_seconds=(now - self._start) * (1.0 - ratio) / done if done > 0 else None,
                micro_batch_seconds=self._micro_batch_seconds,
            )
        )

    def _progress_ratio(self, phase: str, fold: int, epoch: int, inside: float) -> float:
        """Progress of the whole run in [0, 1]: all folds are trained first, then each is tested."""
        if not self._epochs:  # a prediction, or baselines
            return (fold + inside) / self._folds
        first = TAIL["test"]
        if phase in TAIL:
            position = TAIL[phase] - first + (1.0 - TAIL[phase]) * inside / len(TAIL)
            return first + (position + (1.0 - first) * fold) / self._folds
        done_epochs = epoch + (0.95 * inside if phase == "train" else 0.95 if phase == "validate" else 0.0)
        return first * (fold + min(1.0, done_epochs / self._epochs)) / self._folds

    def log(self, message: str, level: str = "info") -> None:
        self.emit(Log.model_validate({"message": message, "level": level}))

    def metrics(self, metrics: Metrics) -> None:
        """Send metrics; long daily series are split over several events, since a line's length is limited."""
        parts: list[list[DailySeries]] = [[]]
        for series in metrics.daily:
            if parts[-1] and sum(len(one.days) for one in parts[-1]) + len(series.days) > MAX_DAYS_PER_EVENT:
                parts.append([])
            parts[-1].append(series)
        self.emit(metrics.model_copy(update={"daily": parts[0]}))
        for part in parts[1:]:
            self.emit(Metrics(step=metrics.step, values={}, daily=part, source=metrics.source))

    def evidence(self, evidence: EvidenceModel) -> None:
        self.emit(Evidence(body=evidence.to_json()))

    def checkpointed(self, *, path: str, step: int, fold: int, epoch: int, sha256: str, best: bool) -> None:
        self.emit(Checkpointed(path=path, step=step, fold=fold, epoch=epoch, sha256=sha256, best=best))


def defined(value: float | None) -> float | None:
    """The value, or None for NaN and infinities."""
    return value if value is not None and math.isfinite(value) else None
