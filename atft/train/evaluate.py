"""Scores of a list of days and their metrics, for validation, test, baselines and oracles alike."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64

from atft.data.cache.batch import Batch
from atft.data.cache.reader import Cache
from atft.data.cache.splits import consecutive_runs
from atft.data.cache.windows import DayReader
from atft.events import DailySeries
from atft.loss.objective import NoTargets
from atft.metrics.portfolio import evaluate
from atft.model.masking import MaskedNetwork
from atft.spec.baselines import BaselinesSpec
from atft.spec.job import TrainSpec
from atft.spec.metric import LOSS, ORACLE_SHARE, RANK_IC, VAL, VAL_LOSS, full_name
from atft.spec.reason import Reason
from atft.train.report import RunError, defined
from atft.train.setup import AnyNetwork, AnyObjective, TrainingSetup

CHUNK_FACTOR = (
    4  # days read at once, in micro-batches: without gradients there is room, and row work is shared by more days
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSamples:
    """Scores and targets of every ranked sample of `days`: `day` indexes `days`, `rows` are panel rows, targets are raw
    forward returns (NaN unknown).
    """

    scores: Float[np.ndarray, "sample horizon"]
    targets: Float[np.ndarray, "sample horizon"]
    day: Int64[np.ndarray, " sample"]
    rows: Int64[np.ndarray, " sample"]
    days: Int64[np.ndarray, " day"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitMetrics:
    """Metrics of one split: `{split}/{metric}` values and daily series."""

    values: dict[str, float | None]
    daily: list[DailySeries]
    degenerate: tuple[int, ...]  # horizons whose scores are constant or nearly so on every day
    warnings: tuple[str, ...]


def read_batch(reader: DayReader, days: Int64[np.ndarray, " day"]) -> Batch | None:
    """The samples of consecutive days; None when not one stock has a full window on any of them."""
    return reader.batch(days) if any(reader.num_stocks(int(day)) for day in days) else None


def chunks(days: Int64[np.ndarray, " day"], size: int) -> Iterator[tuple[int, Int64[np.ndarray, " few"]]]:
    """`days` in order, at most `size` consecutive ones at a time, each with the index of its first day in `days`."""
    offset = 0
    for stretch in consecutive_runs(days):
        for start in range(0, len(stretch), size):
            yield offset + start, stretch[start : start + size]
        offset += len(stretch)


def predict(
    network: AnyNetwork,
    reader: DayReader,
    objective: AnyObjective,
    days: Int64[np.ndarray, " day"],
    *,
    micro_batch_days: int,
    heartbeat: Callable[[int], None],
) -> tuple[ScoredSamples, float | None]:
    """Scores of the ranked samples of `days`, a few micro-batches at a time, and the mean daily loss (None when no
    day has one).

    Always float32: bfloat16 scores tie. `heartbeat(days done)` is called after each chunk and may raise to stop.
    """
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    loss_sum, loss_days = 0.0, 0
    training, chunk = network.training, CHUNK_FACTOR * micro_batch_days
    network.eval()
    with torch.no_grad():
        for start, few in chunks(days, chunk):
            batch = read_batch(reader, few)
            if batch is None:
                continue
            prediction = network(batch)
            try:
                value = objective(prediction, batch)
            except NoTargets:
                pass  # the last days of a panel have no targets; the loss is a mean over the other days
            else:
                counted = value.num_days - value.num_skipped_days
                loss_sum, loss_days = loss_sum + float(value.total.detach()) * counted, loss_days + counted
            keep = batch.ranked
            numbers = keep.cpu().numpy()
            parts.append(
                (
                    prediction.scores[keep].float().cpu().numpy(),
                    batch.targets[keep].cpu().numpy(),
                    batch.day[keep].cpu().numpy() + start,
                    batch.rows[numbers],
                )
            )
            heartbeat(start + len(few))
    network.train(training)
    if not parts:
        span = f"{len(days)} days from {days[0]} on" if len(days) else "no days"
        raise RunError(Reason.INVALID_PARAMS, f"not one sample with a full window on {span}: shorten data.window")
    scores, targets, day, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ScoredSamples(
        scores=scores, targets=targets, day=day.astype(np.int64), rows=rows.astype(np.int64), days=days
    ), loss_sum / loss_days if loss_days else None


def validate(setup: TrainingSetup, *, micro_batch_days: int, heartbeat: Callable[[int], None]) -> SplitMetrics:
    """Metrics of the validation days at the present weights, with its loss; pretraining has only its losses.

    Raises RunError, and whatever `heartbeat` raises.
    """
    network, days = setup.evaluation_network, setup.split.val
    if isinstance(network, MaskedNetwork):
        return _validate_masked(setup, network, micro_batch_days=micro_batch_days, heartbeat=heartbeat)
    scored, loss = predict(
        network, setup.reader, setup.objective, days, micro_batch_days=micro_batch_days, heartbeat=heartbeat
    )
    metrics = split_metrics(scored, setup.cache, setup.train_spec, VAL)
    return replace(metrics, values={VAL_LOSS: loss, **metrics.values})


def _validate_masked(
    setup: TrainingSetup, network: MaskedNetwork, *, micro_batch_days: int, heartbeat: Callable[[int], None]
) -> SplitMetrics:
    sums, num_days, training = {LOSS: 0.0}, 0, network.training
    network.eval()
    with torch.no_grad():
        for start, few in chunks(setup.split.val, CHUNK_FACTOR * micro_batch_days):
            batch = read_batch(setup.reader, few)
            try:
                value = setup.objective(network(batch), batch) if batch is not None else None
            except NoTargets:
                value = None
            if value is not None:
                counted = value.num_days - value.num_skipped_days
                num_days += counted
                for name, part in {LOSS: value.total, **{f"{LOSS}_{n}": p for n, p in value.parts.items()}}.items():
                    sums[name] = sums.get(name, 0.0) + float(part) * counted
            heartbeat(start + len(few))
    network.train(training)
    if not math.isfinite(sums[LOSS]):
        raise RunError(
            Reason.NAN_LOSS, f"the loss of the validation days is {sums['loss']}: lower the learning rate or clip_norm"
        )
    values = {full_name(VAL, name): total / num_days if num_days else None for name, total in sums.items()}
    return SplitMetrics(values=values, daily=[], degenerate=(), warnings=())


def split_metrics(scored: ScoredSamples, cache: Cache, spec: TrainSpec | BaselinesSpec, split: str) -> SplitMetrics:
    """Every metric of the contract on `split` (val or test), keys with their split; undefined is None.

    Raises RunError (nan_loss) for a score that is not finite.
    """
    dates = [str(date) for date in cache.days[scored.days]]
    broken = ~np.isfinite(scored.scores).all(axis=1)
    if broken.any():
        raise RunError(
            Reason.NAN_LOSS,
            f"{int(broken.sum())} of {len(broken)} {split} scores are not finite, first on "
            f"{dates[scored.day[broken].min()]}: lower the learning rate or clip_norm",
        )
    evaluation = evaluate(
        scores=scored.scores,
        targets=scored.targets,
        day=scored.day,
        code=cache.code_index[scored.rows].astype(np.int64),
        dates=dates,
        horizons=spec.data.horizons,
        min_names=spec.data.min_names,
        evaluation=spec.evaluation,
    )
    values = {full_name(split, name): defined(value) for name, value in evaluation.values.items()}
    daily = [
        DailySeries.model_validate(
            {"name": name, "split": split, "horizon": horizon, "days": dates, "values": [defined(v) for v in series]}
        )
        for (name, horizon), series in evaluation.daily.items()
    ]
    return SplitMetrics(values=values, daily=daily, degenerate=evaluation.degenerate, warnings=evaluation.warnings)


def with_scores(scored: ScoredSamples, scores: Float[np.ndarray, "sample horizon"]) -> ScoredSamples:
    """The same samples with other scores."""
    return replace(scored, scores=scores)


def oracle_scores(cache: Cache, spec: TrainSpec, scored: ScoredSamples) -> dict[str, ScoredSamples]:
    """The planted panel's best possible scores on the same samples, by name (oracle_true, oracle_observed); empty for
    real data.
    """
    if cache.oracle is None:
        return {}
    columns = [cache.horizons.index(h) for h in spec.data.horizons]
    return {
        f"oracle_{name}": with_scores(scored, np.asarray(scores[scored.rows][:, columns]))
        for name, scores in cache.oracle.items()
    }


def oracle_share(
    values: dict[str, float | None], oracle: dict[str, float | None], split: str, horizons: Sequence[int]
) -> dict[str, float | None]:
    """Mean RankIC of the model over that of the observed-history oracle on the same days, by horizon; None where
    either is undefined or the oracle's is not positive.
    """
    shares: dict[str, float | None] = {}
    for horizon in horizons:
        ours, best = (found.get(full_name(split, RANK_IC, horizon)) for found in (values, oracle))
        shares[full_name(split, ORACLE_SHARE, horizon)] = (
            ours / best if ours is not None and best is not None and best > 0 else None
        )
    return shares
