"""Baselines on the same days: zero, last return, ridge and LightGBM on the same window with rank targets.

They depend on data, split and features only: computed once, stored beside the cache, never run in trials. Rows and
columns are limited; the stored file has the limits used. In the service they are a job of their own
(`baselines_run.py`), so that no training waits for them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError

from atft.checksums import is_sealed, seal, write_atomic
from atft.data.cache.batch import Batch
from atft.data.cache.labels import NEUTRAL
from atft.data.cache.reader import Cache
from atft.data.cache.splits import Split
from atft.data.cache.windows import DayReader
from atft.events import DailySeries
from atft.metrics.rank import daily_rank_ic
from atft.spec.base import digest
from atft.spec.baselines import NAMES, VERSION, BaselinesSpec
from atft.spec.metric import RANK_IC, full_name
from atft.train.evaluate import ScoredSamples, chunks, read_batch, split_metrics, with_scores
from atft.train.setup import TrainingSetup

if TYPE_CHECKING:
    from lightgbm import Booster

MAX_COLUMNS = 640
MAX_RIDGE_ROWS = 100_000
MAX_TREE_ROWS = 40_000
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
TREES: dict[str, object] = {
    "objective": "regression",
    "num_leaves": 31,
    "learning_rate": 0.05,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "max_bin": 63,
    "seed": 0,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}
NUM_TREES = 100
CHUNK_DAYS = 8
Beat = Callable[[int, int], None]  # called with the steps done and their number; may raise to stop
Warn = Callable[[str], None]
Matrix = Float[np.ndarray, "sample column"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """Metrics of one baseline: `values` have split prefixes; `missing` is the reason when it could not be computed."""

    values: dict[str, float | None]
    daily: list[DailySeries]
    missing: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Data used to fit the baselines: `lags` days back (0 = the day itself), rows used and rows available."""

    lags: tuple[int, ...]
    columns: int
    rows: int
    tree_rows: int
    rows_available: int
    penalty: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    bounds: Bounds
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
    missing = {name: baseline.missing for name, baseline in made.baselines.items() if baseline.missing is not None}
    for name, reason in missing.items():
        warn(f"baseline {name}: {reason}")
    if not missing:
        path = _path(fold.cache, fold.spec, fold.number)
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, TypeAdapter(_Stored).dump_json(made))
            seal(path)
        except PermissionError as error:
            warn(f"the baselines are not kept for the next run: {error}")
    return made.baselines


def _path(cache: Cache, spec: BaselinesSpec, number: int) -> Path:
    body = {
        "version": VERSION,
        "fingerprint": cache.fingerprint,
        "data": spec.data.model_dump(mode="json"),
        "split": spec.split.model_dump(mode="json"),
        **({"fold": number} if spec.split.num_splits > 1 else {}),
        "evaluation": spec.evaluation.model_dump(mode="json"),
        "bounds": [MAX_COLUMNS, MAX_RIDGE_ROWS, MAX_TREE_ROWS, NUM_TREES, list(PENALTIES)],
        "trees": TREES,
        **({"ranks": "labels"} if spec.data.target in NEUTRAL else {}),  # earlier versions ranked the raw target
    }
    return cache.path / "baselines" / f"{digest(json.loads(json.dumps(body)))}.json"


def _make(fold: Fold, scored: dict[str, ScoredSamples], beat: Beat) -> _Stored:
    spec = fold.spec
    stages = 2 + len(scored)  # of equal weight in the progress: rows, trees, and the scores of each split

    def beat_of(stage: int) -> Beat:
        return lambda step, steps: beat(stage * steps + step, stages * steps)

    lags = choose_lags(spec.data.window, fold.reader.num_features)
    fit = _accumulate(fold, lags, beat_of(0))
    coefficients = ridge_paths(fit.gram, fit.product)
    trees, missing = _fit_trees(fit.tree_x, fit.tree_ranks, spec.resources.threads, beat_of(1))
    scores = {
        split: _score(fold, samples, lags, coefficients, trees, beat_of(stage))
        for stage, (split, samples) in enumerate(scored.items(), start=2)
    }
    chosen = _best_penalty(scores["val"]["ridge"], scored["val"], spec.data.min_names)
    made = {}
    for name in NAMES:
        parts = []
        for split, samples in scored.items():
            if name == "lightgbm" and not trees:
                continue
            own = scores[split][name]
            ranked = with_scores(samples, own[:, chosen] if name == "ridge" else own)
            parts.append(split_metrics(ranked, fold.cache, spec, split))
        values = {key: value for one in parts for key, value in one.values.items()}
        if not parts:
            values = {
                full_name(split, RANK_IC, horizon): None for split in scored for horizon in (None, *spec.data.horizons)
            }
        made[name] = Baseline(
            values=values,
            daily=[series for one in parts for series in one.daily],
            missing=missing if name == "lightgbm" else None,
        )
    bounds = Bounds(
        lags=lags,
        columns=fit.gram.shape[0],
        rows=fit.rows,
        tree_rows=len(fit.tree_x),
        rows_available=fit.rows_available,
        penalty=PENALTIES[chosen],
    )
    return _Stored(bounds=bounds, baselines=made)


def choose_lags(window: int, num_features: int) -> tuple[int, ...]:
    """Lags 0 … window-1, thinned towards the past until they give at most MAX_COLUMNS columns; lag 0 always stays."""
    count = max(1, MAX_COLUMNS // num_features)
    if count >= window:
        return tuple(range(window))
    lags = sorted({round(x) - 1 for x in np.geomspace(1, window, count)})
    spare = [lag for lag in range(window) if lag not in lags]
    return tuple(sorted([*lags, *spare[: count - len(lags)]]))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fit:
    gram: Float[np.ndarray, "column column"]
    product: Float[np.ndarray, "column horizon"]
    tree_x: Matrix
    tree_ranks: Float[np.ndarray, "sample horizon"]
    rows: int
    rows_available: int


def _accumulate(fold: Fold, lags: tuple[int, ...], beat: Beat) -> _Fit:
    """Read evenly spaced training days once: sums for ridge on within-day deviations, and rows for the trees."""
    train, reader = fold.split.train, fold.reader
    available = len(train) * max(1, reader.median_stocks_per_day)
    stride = -(-available // MAX_RIDGE_ROWS)
    days = train[::stride]
    tree_stride = -(-available // (stride * MAX_TREE_ROWS))
    gram = np.zeros((len(lags) * reader.num_features,) * 2)
    product = np.zeros((len(gram), len(fold.spec.data.horizons)))
    kept: list[tuple[Matrix, np.ndarray]] = []
    rows = 0
    for i, day in enumerate(days):
        batch = read_batch(reader, np.asarray([day]))
        if batch is None:
            continue
        ranks = batch.ranks.cpu().numpy()
        keep = batch.ranked.cpu().numpy() & np.isfinite(ranks).all(axis=1)
        if keep.sum() > 1:
            x, ranks = _flatten(batch, keep, lags), ranks[keep]
            if i % tree_stride == 0:
                kept.append((x, ranks))
            centred = x - x.mean(axis=0)
            gram += centred.T @ centred
            product += centred.T @ ranks
            rows += len(x)
        beat(i + 1, len(days))
    tree_x = np.concatenate([x for x, _ in kept]) if kept else np.zeros((0, len(gram)), np.float32)
    tree_ranks = np.concatenate([r for _, r in kept]) if kept else np.zeros((0, product.shape[1]), np.float32)
    return _Fit(gram=gram, product=product, tree_x=tree_x, tree_ranks=tree_ranks, rows=rows, rows_available=available)


def _flatten(batch: Batch, keep: np.ndarray, lags: tuple[int, ...]) -> Matrix:
    """The window of each kept sample as one row: lag by lag, feature by feature."""
    windows = batch.windows.cpu().numpy()[keep]
    columns = windows.shape[1] - 1 - np.asarray(lags)
    flat: Matrix = batch.x.cpu().numpy()[windows[:, columns]].reshape(len(windows), -1)
    return flat


def ridge_paths(
    gram: Float[np.ndarray, "column column"], product: Float[np.ndarray, "column horizon"]
) -> Float[np.ndarray, "column penalty horizon"]:
    """Ridge coefficients for every penalty, as multiples of the mean eigenvalue of X'X, from one decomposition."""
    values, vectors = np.linalg.eigh(gram)
    projected = vectors.T @ product
    scale = max(float(values.mean()), np.finfo(np.float64).tiny)
    paths = [vectors @ (projected / (np.maximum(values, 0.0) + penalty * scale)[:, None]) for penalty in PENALTIES]
    return np.stack(paths, axis=1)


def _fit_trees(
    x: Matrix, ranks: Float[np.ndarray, "sample horizon"], threads: int, beat: Beat
) -> tuple[list["Booster"], str | None]:
    """One model per horizon; or none, with the reason, where LightGBM cannot be loaded or there are no samples."""
    try:
        import lightgbm  # noqa: PLC0415 - links the system's libgomp, which may be absent
    except (ImportError, OSError) as error:
        return [], f"LightGBM cannot be loaded ({error}); on Debian install libgomp1"
    if len(x) == 0:
        return [], "no training sample has all targets known"
    total = ranks.shape[1] * NUM_TREES
    data = lightgbm.Dataset(x, params={**TREES, "num_threads": threads})
    boosters = []
    for h in range(ranks.shape[1]):
        booster = lightgbm.Booster({**TREES, "num_threads": threads}, data.set_label(np.ascontiguousarray(ranks[:, h])))
        for tree in range(NUM_TREES):
            booster.update()
            beat(h * NUM_TREES + tree + 1, total)
        boosters.append(booster)
    return boosters, None


def _score(
    fold: Fold,
    samples: ScoredSamples,
    lags: tuple[int, ...],
    coefficients: Float[np.ndarray, "column penalty horizon"],
    trees: list["Booster"],
    beat: Beat,
) -> dict[str, np.ndarray]:
    """Scores on the samples' days, in their order: [sample, horizon], ridge [sample, penalty, horizon]."""
    ridge, boosted = [], []
    matrix = coefficients.astype(np.float32).reshape(len(coefficients), -1)
    for start, days in chunks(samples.days, CHUNK_DAYS):
        batch = read_batch(fold.reader, days)
        if batch is None:
            continue
        x = _flatten(batch, batch.ranked.cpu().numpy(), lags)
        ridge.append((x @ matrix).reshape(len(x), *coefficients.shape[1:]))
        if trees:
            boosted.append(np.stack([tree.predict(x) for tree in trees], axis=1).astype(np.float32))
        beat(start, len(samples.days))
    shape = samples.scores.shape
    last = fold.cache.returns[samples.rows].astype(np.float32)
    return {
        "zero": np.zeros(shape, np.float32),
        "last_return": np.repeat(np.nan_to_num(last)[:, None], shape[1], axis=1),
        "ridge": np.concatenate(ridge),
        **({"lightgbm": np.concatenate(boosted)} if boosted else {}),
    }


def _best_penalty(scores: Float[np.ndarray, "sample penalty horizon"], samples: ScoredSamples, min_names: int) -> int:
    """The penalty with the highest mean RankIC over validation days and horizons; the middle one where none has any."""
    means = [_mean_rank_ic(scores[:, p], samples, min_names) for p in range(scores.shape[1])]
    return int(np.nanargmax(means)) if np.isfinite(means).any() else len(means) // 2


def _mean_rank_ic(scores: Float[np.ndarray, "sample horizon"], samples: ScoredSamples, min_names: int) -> float:
    series = []
    for h in range(scores.shape[1]):
        known = np.isfinite(samples.targets[:, h])
        series.append(
            daily_rank_ic(
                scores[known, h].astype(np.float64),
                samples.targets[known, h].astype(np.float64),
                samples.day[known],
                num_days=len(samples.days),
                min_names=min_names,
            )
        )
    values = np.concatenate(series)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
