"""Baselines on the same days: simple rankers that a network must beat, each fitted on every training day.

`zero` has one score for all, `last_return` the day's own return; ridge regressions and LightGBM fit the ranks of the
labels, `linear_ard` whitened labels. They depend on data, split and features only: computed once, stored beside the
cache, never run in trials. In the service they are a job of their own (`baselines_run.py`), so that no training waits
for them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from atft.checksums import is_sealed, seal, write_atomic
from atft.data.cache.reader import Cache
from atft.data.cache.splits import Split
from atft.data.cache.windows import DayReader
from atft.events import DailySeries
from atft.evidence.models import BaselineEvidence
from atft.spec.base import digest
from atft.spec.baselines import NAMES, UNAVAILABLE, VERSION, BaselinesSpec
from atft.spec.metric import RANK_IC, full_name
from atft.train.evaluate import ScoredSamples, split_metrics, with_scores
from atft.train.setup import TrainingSetup

CHUNK_DAYS = 8
Beat = Callable[[int, int], None]  # called with the steps done and their number; may raise to stop
Warn = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """Metrics of one baseline: `values` have split prefixes. `evidence` says what it was fitted on, or why it could not
    be computed; that of a baseline without a fit is None.
    """

    values: dict[str, float | None]
    daily: list[DailySeries]
    evidence: BaselineEvidence | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    baselines: dict[str, Baseline]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """The data on which baselines are fitted and judged: those of fold `number`, from 0."""

    spec: BaselinesSpec
    cache: Cache
    reader: DayReader
    split: Split
    number: int

    @classmethod
    def of(cls, setup: TrainingSetup) -> "Fold":
        """The fold of a run; members of an ensemble have the same one."""
        spec = BaselinesSpec.of(setup.train_spec)
        number = setup.fold if spec.split.num_splits > 1 else 0
        return cls(spec=spec, cache=setup.cache, reader=setup.reader, split=setup.split, number=number)


def baselines(fold: Fold, scored: dict[str, ScoredSamples], warn: Warn, beat: Beat) -> dict[str, Baseline]:
    """Metrics of each baseline on the splits of `scored`, which must have val and test: stored, or else computed."""
    return stored_baselines(fold, warn) or compute_baselines(fold, scored, warn, beat)


def are_stored(cache: Cache, spec: BaselinesSpec) -> bool:
    """Whether the baselines of every fold are stored with the cache."""
    return all(is_sealed(_path(cache, spec, number)) for number in range(spec.split.num_splits))


def stored_baselines(fold: Fold, warn: Warn) -> dict[str, Baseline] | None:
    """The baselines of the fold that are stored with the cache; None when there are none that can be read."""
    path = _path(fold.cache, fold.spec, fold.number)
    if not is_sealed(path):
        return None
    try:
        return TypeAdapter(_Stored).validate_json(path.read_bytes()).baselines
    except ValidationError as error:
        warn(f"the stored baselines {path.name} cannot be read ({error.error_count()} errors): making them again")
        return None


def compute_baselines(fold: Fold, scored: dict[str, ScoredSamples], warn: Warn, beat: Beat) -> dict[str, Baseline]:
    """Compute the baselines, and store them with the cache unless one is missing."""
    made = _make(fold, scored, beat)
    for name, baseline in made.baselines.items():
        if baseline.evidence is not None and baseline.evidence.missing is not None:
            warn(f"baseline {name}: {baseline.evidence.missing}")
    if _is_complete(made):
        path = _path(fold.cache, fold.spec, fold.number)
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, TypeAdapter(_Stored).dump_json(made, exclude_unset=True))
            seal(path)
        except PermissionError as error:
            warn(f"the baselines are not kept for the next run: {error}")
    return made.baselines


def _is_complete(made: _Stored) -> bool:
    """Whether another attempt would have no more: what is missing for its size stays so, a library may be installed."""
    evidence = made.baselines["lightgbm"].evidence
    return evidence is None or evidence.missing is None or not evidence.missing.startswith(UNAVAILABLE)


def _path(cache: Cache, spec: BaselinesSpec, number: int) -> Path:
    body = {
        "version": VERSION,
        "fingerprint": cache.fingerprint,
        "data": spec.data.model_dump(mode="json"),
        "split": spec.split.model_dump(mode="json"),
        **({"fold": number} if spec.split.num_splits > 1 else {}),
        "evaluation": spec.evaluation.model_dump(mode="json"),
    }
    return cache.path / "baselines" / f"{digest(body)}.json"


def _make(fold: Fold, scored: dict[str, ScoredSamples], beat: Beat) -> _Stored:
    from atft.train.baseline_fits import fit_baselines  # noqa: PLC0415 - SciPy and LightGBM, which few runs need

    fits = fit_baselines(fold.reader, fold.split, fold.spec, lambda step, steps: beat(9 * step, 10 * steps))
    days = sum(len(samples.days) for samples in scored.values())
    done = 0
    values_by_name: dict[str, dict[str, float | None]] = {name: {} for name in NAMES}
    daily_by_name: dict[str, list[DailySeries]] = {name: [] for name in NAMES}
    for split, samples in scored.items():

        def advance(step: int, _: int, done: int = done) -> None:
            beat(9 * days + done + step, 10 * days)

        shape = samples.scores.shape
        last = fold.cache.returns[samples.rows].astype(np.float32)
        scores = {
            "zero": np.zeros(shape, np.float32),
            "last_return": np.repeat(np.nan_to_num(last)[:, None], shape[1], axis=1),
            **fits.scores(samples.days, advance),
        }
        for name in NAMES:
            if name in scores:
                judged = split_metrics(with_scores(samples, scores[name]), fold.cache, fold.spec, split)
                values_by_name[name] |= judged.values
                daily_by_name[name] += judged.daily
            else:
                horizons = (None, *fold.spec.data.horizons)
                values_by_name[name] |= {full_name(split, RANK_IC, horizon): None for horizon in horizons}
        done += len(samples.days)
    return _Stored(
        baselines={
            name: Baseline(values=values_by_name[name], daily=daily_by_name[name], evidence=fits.evidence.get(name))
            for name in NAMES
        }
    )
