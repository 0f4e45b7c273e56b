"""A job of baselines: computes those of every fold of a split, without a model, as a training would at its end."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from atft.data.cache.reader import Cache
from atft.data.cache.splits import make_splits
from atft.data.cache.windows import DayReader
from atft.events import Event, Failed, Finished, Metrics, Stopped
from atft.evidence.models import BaselineEvidence, BaselinesEvidence
from atft.spec.baselines import BaselinesSpec
from atft.spec.metric import TEST, VAL
from atft.spec.reason import Reason
from atft.train.baselines import CHUNK_DAYS, Baseline, Fold, compute_baselines, stored_baselines
from atft.train.evaluate import ScoredSamples, chunks, read_batch
from atft.train.fold_mean import mean_daily, mean_values, with_fold_names
from atft.train.outputs import write_daily
from atft.train.report import Reporter, RunError, StopRequested
from atft.train.seed import limit_threads


def run_baselines(
    spec: BaselinesSpec, cache: Cache, out: Path, emit: Callable[[Event], None], stop: Callable[[], bool]
) -> Finished | Stopped | Failed:
    """Report the baselines' metrics and write `out/daily.parquet`; what is computed is stored with the cache, fold by
    fold. The returned event has not been emitted.
    """
    try:
        return _run(spec, cache, out, emit, stop)
    except StopRequested:
        return Stopped()
    except RunError as error:
        return Failed(reason=error.reason, message=str(error))


def _run(
    spec: BaselinesSpec, cache: Cache, out: Path, emit: Callable[[Event], None], stop: Callable[[], bool]
) -> Finished:
    limit_threads(spec.resources.threads)
    splits = make_splits(cache, spec.data, spec.split)
    reader = DayReader(cache, spec.data, None, torch.device("cpu"))
    reporter = Reporter(emit, epochs=0, folds=len(splits))
    by_fold: list[dict[str, Baseline]] = []
    for number, split in enumerate(splits):

        def beat(step: int, steps: int, number: int = number) -> None:
            reporter.progress("baselines", fold=number, step=step, steps=steps)
            if stop():
                raise StopRequested

        def warn(message: str) -> None:
            reporter.log(message, level="warning")

        beat(0, 1)
        fold = Fold(spec=spec, cache=cache, reader=reader, split=split, number=number)
        found = stored_baselines(fold, warn)
        if found is None:
            samples = {VAL: _samples(reader, split.val), TEST: _samples(reader, split.test)}
            found = compute_baselines(fold, samples, warn, beat)
        by_fold.append(found)
    reporter.evidence(BaselinesEvidence(baselines=_evidence(by_fold)))
    series = []
    for name in by_fold[0]:
        values, daily = [one[name].values for one in by_fold], [one[name].daily for one in by_fold]
        if len(splits) > 1:
            for number, own in enumerate(values):
                reporter.metrics(Metrics(step=0, values=with_fold_names(own, number, len(splits)), source=name))
        mean = (mean_values(values), mean_daily(daily)) if len(splits) > 1 else (values[0], daily[0])
        reporter.metrics(Metrics(step=0, values=mean[0], daily=mean[1], source=name))
        series += [(name, one) for one in mean[1]]
    return Finished(artifacts=[write_daily(out, series)])


def _evidence(by_fold: list[dict[str, Baseline]]) -> dict[str, list[BaselineEvidence]]:
    found: dict[str, list[BaselineEvidence]] = {}
    for one in by_fold:
        for name, baseline in one.items():
            if baseline.evidence is not None:
                found.setdefault(name, []).append(baseline.evidence)
    return found


def _samples(reader: DayReader, days: Int64[np.ndarray, " day"]) -> ScoredSamples:
    """The ranked samples of `days`, with scores of 0."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start, few in chunks(days, CHUNK_DAYS):
        batch = read_batch(reader, few)
        if batch is None:
            continue
        keep = batch.ranked.numpy()
        parts.append((batch.targets.numpy()[keep], batch.day.numpy()[keep] + start, batch.rows[keep]))
    if not parts:
        raise RunError(Reason.INVALID_PARAMS, "not one sample with a full window: shorten data.window")
    targets, day, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ScoredSamples(
        scores=np.zeros(targets.shape, np.float32),
        targets=targets,
        day=day.astype(np.int64),
        rows=rows.astype(np.int64),
        days=days,
    )
