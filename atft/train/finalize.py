"""The end of a run: evaluate each fold's best weights on its validation and test days, beside oracles and baselines,
and write the outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import safetensors.torch

from atft.events import Artifact, DailySeries, Finished, Metrics
from atft.metrics.rank import uniform_ranks
from atft.spec.baselines import BaselinesSpec
from atft.spec.metric import LOSS, ORACLE_SHARE, TEST, VAL, full_name
from atft.spec.reason import Reason
from atft.train.baselines import Fold, are_stored, baselines
from atft.train.evaluate import (
    ScoredSamples,
    SplitMetrics,
    oracle_scores,
    oracle_share,
    predict,
    split_metrics,
    with_scores,
)
from atft.train.fold_mean import Values, mean_daily, mean_values, with_fold_names
from atft.train.outputs import PredictionWriter, Series, prediction_table, write_outputs
from atft.train.report import RunError
from atft.train.run import Run
from atft.train.setup import TrainingSetup, network_of, objective_of
from atft.train.state import FoldState


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerMetrics:
    """Final metrics of one scorer; `source` is null for the model, else a baseline's or oracle's name. Every fold has
    the same scorers in the same order.
    """

    source: str | None
    values: Values
    daily: list[DailySeries] = field(default_factory=list)


def finalize(run: Run, *, test: bool, only_stored_baselines: bool = False) -> Finished:
    """Evaluate the trained folds and write the run's outputs. With `test` the test days are scored, once, and the
    baselines with them; with `only_stored_baselines` none are computed, so that without stored ones the run has none.

    With several folds `val/…` is the mean over each fold's best epoch, reported at the last of these epochs; for an
    ensemble it is the metric of the ensemble's own scores. Raises RunError, StopRequested; OSError when the disk is
    full.
    """
    folds, ensemble = run.state.folds, run.setup.ensemble is not None
    step = max(fold.best_epoch for fold in folds)
    best = mean_values([fold.best_metrics for fold in folds])
    if len(folds) > 1 and not ensemble:
        run.reporter.metrics(Metrics(step=step, values=best, best=True))
    if not run.spec.scored:  # the test days are left alone
        artifacts = _write_outputs(run, None)
        return _finished(run, step, best, artifacts, None)
    with_baselines = test and _has_baselines(run, only_stored=only_stored_baselines)
    evaluate = _evaluate_ensemble if ensemble else _evaluate_folds
    with PredictionWriter(run.out / "predictions.parquet") as predictions:
        scorers = evaluate(run, step, predictions, test=test, with_baselines=with_baselines)
    series: Series = [(one.source or "", series) for one in scorers for series in one.daily]
    artifacts = _write_outputs(run, series)
    own = {name: value for one in scorers if one.source is None for name, value in one.values.items()}
    own = {name: value for name, value in own.items() if ORACLE_SHARE not in name}
    if ensemble:
        best = {name: value for name, value in own.items() if name.startswith(f"{VAL}/")}
    tested = {name: value for name, value in own.items() if name.startswith(f"{TEST}/")}
    return _finished(run, step, best, artifacts, tested if test else None)


def _write_outputs(run: Run, series: Series | None) -> list[Artifact]:
    """Write the run's outputs; the weights among them are still those that it trained and scored."""
    artifacts = write_outputs(run.setup, run.out, series, run.send_evidence())
    for number in range(run.num_folds):
        run.read_best(number)
    return artifacts


def _has_baselines(run: Run, *, only_stored: bool) -> bool:
    """Whether the run reports baselines. Asked once, since another run may store those of a fold at any moment."""
    spec = run.setup.train_spec
    return spec.baselines and (not only_stored or are_stored(run.setup.cache, BaselinesSpec.of(spec)))


def _evaluate_folds(
    run: Run, step: int, predictions: PredictionWriter, *, test: bool, with_baselines: bool
) -> list[ScorerMetrics]:
    """Each fold's best weights on its own days; with several folds, the mean over them."""
    folds, several = run.state.folds, run.num_folds > 1
    by_fold: list[list[ScorerMetrics]] = [[] for _ in folds]
    for number, fold in enumerate(folds):
        one = _Fold(run, number, fold)
        scored = one.score(test=test)
        predictions.add(prediction_table(one.setup, scored))
        metrics = one.metrics(scored)
        for scorer in _scorers(run, one.setup, scored, metrics, unreported=("test",), with_baselines=with_baselines):
            by_fold[number].append(scorer)
            run.reporter.metrics(
                Metrics(
                    step=fold.best_epoch,
                    values=with_fold_names(scorer.values, number, len(folds)),
                    daily=[] if several else scorer.daily,
                    source=scorer.source,
                )
            )
    if not several:
        return by_fold[0]
    means = [_mean(parts) for parts in zip(*by_fold, strict=True)]
    for scorer in means:
        run.reporter.metrics(Metrics(step=step, values=scorer.values, daily=scorer.daily, source=scorer.source))
    return means


def _evaluate_ensemble(
    run: Run, step: int, predictions: PredictionWriter, *, test: bool, with_baselines: bool
) -> list[ScorerMetrics]:
    """An ensemble's scores, the mean of its members' ranks, beside the same oracles and baselines as any run."""
    sums: dict[str, ScoredSamples] = {}
    for number, state in enumerate(run.state.folds):
        member = _Fold(run, number, state)
        scored = member.score(test=test)
        by_member = member.metrics(scored)
        if test:
            values = with_fold_names(by_member["test"].values, number, run.num_folds)
            run.reporter.metrics(Metrics(step=state.best_epoch, values=values))
        for split, one in scored.items():
            ranks = uniform_ranks(one.scores, one.day)
            sums[split] = with_scores(one, ranks + sums[split].scores if split in sums else ranks)
    setup = run.setup
    mean = {split: with_scores(one, one.scores / run.num_folds) for split, one in sums.items()}
    predictions.add(prediction_table(setup, mean))
    metrics = _metrics_by_split(run, setup, mean)
    scorers = list(_scorers(run, setup, mean, metrics, unreported=("val", "test"), with_baselines=with_baselines))
    for scorer in scorers:
        best = scorer.source is None and scorer.daily[0].split == "val"
        run.reporter.metrics(
            Metrics(step=step, values=scorer.values, daily=scorer.daily, source=scorer.source, best=best)
        )
    return scorers


def _finished(run: Run, step: int, metrics: Values, artifacts: list[Artifact], tested: Values | None) -> Finished:
    return Finished(
        artifacts=artifacts,
        result={"best": _best(run, step, metrics), "test": tested, "ending": _end_message(run)},
        reason=_end_reason(run.state.folds),
    )


def _mean(parts: tuple[ScorerMetrics, ...]) -> ScorerMetrics:
    return ScorerMetrics(
        source=parts[0].source,
        values=mean_values([one.values for one in parts]),
        daily=mean_daily([one.daily for one in parts]),
    )


def _best(run: Run, step: int, metrics: Values) -> dict[str, object]:
    """`best` of the result: metrics of the whole run, and of each of its `folds` (an ensemble's `members`)."""
    folds, objective = run.state.folds, run.spec.trainer.objective
    several = "folds" if run.setup.ensemble is None else "members"
    own = [{"epoch": fold.best_epoch, "value": fold.best_value, "metrics": fold.best_metrics} for fold in folds]
    return {
        "epoch": step,
        "objective": objective,
        "value": metrics.get(objective),
        "metrics": dict(metrics),
        **({several: own} if len(folds) > 1 else {}),
    }


def _end_message(run: Run) -> str | None:
    folds = run.state.folds
    if len(folds) == 1:
        return folds[0].end_message or None
    messages = [f"{run.fold_name(number)}: {fold.end_message}" for number, fold in enumerate(folds) if fold.end_message]
    return "; ".join(messages) or None


def _end_reason(folds: list[FoldState]) -> Reason | None:
    """Why training ended before its last epoch; a stop rule in any fold takes precedence over early stopping."""
    reasons = {fold.end_reason for fold in folds}
    return next((reason for reason in (Reason.STOP_RULE, Reason.EARLY_STOPPED) if reason in reasons), None)


class _Fold:
    """The best weights of one fold or member, to be scored and evaluated."""

    def __init__(self, run: Run, number: int, state: FoldState) -> None:
        self.setup = replace(run.setup, fold=number)
        self.run = run
        self.state = state
        self.number = number
        self.losses: dict[str, float | None] = {}

    def score(self, *, test: bool) -> dict[str, ScoredSamples]:
        """The scored samples of each split; also records the split's loss."""
        setup = self.setup
        network = network_of(setup.spec, setup.reader.num_features).to(setup.device)
        network.load_state_dict(safetensors.torch.load(self.run.read_best(self.number)))
        phase, _ = setup.spec.trainer.phase_of(self.state.best_epoch - 1)  # the loss that trained these weights
        objective = objective_of(setup.spec, setup.cache, setup.split.train, phase.loss)
        scored: dict[str, ScoredSamples] = {}
        for split, days in {"val": setup.split.val, **({"test": setup.split.test} if test else {})}.items():
            scored[split], self.losses[split] = predict(
                network,
                setup.reader,
                objective,
                days,
                micro_batch_days=self.run.state.micro_batch_days,
                heartbeat=self.run.heartbeat(
                    "test" if split == "test" else "validate", setup.fold, self.state.epoch, len(days)
                ),
            )
        return scored

    def metrics(self, scored: dict[str, ScoredSamples]) -> dict[str, SplitMetrics]:
        """Metrics by split. Raises RunError naming the fold or member whose scores are not finite."""
        try:
            metrics = _metrics_by_split(self.run, self.setup, scored, self.number)
        except RunError as error:
            raise RunError(error.reason, f"{error}{self.run.fold_suffix(self.number)}") from error
        if "test" in metrics:
            metrics["test"].values[full_name(TEST, LOSS)] = self.losses["test"]
        return metrics


def _metrics_by_split(
    run: Run, setup: TrainingSetup, scored: dict[str, ScoredSamples], number: int | None = None
) -> dict[str, SplitMetrics]:
    """Metrics by split, their warnings logged; `number` is that of the fold or member that scored."""
    name = f".{number + 1}" if number is not None and run.num_folds > 1 else ""
    metrics = {split: split_metrics(one, setup.cache, setup.train_spec, split) for split, one in scored.items()}
    for split, one in metrics.items():
        for warning in one.warnings:
            run.reporter.log(f"{split}{name}: {warning}", level="warning")
    return metrics


def _scorers(
    run: Run,
    setup: TrainingSetup,
    scored: dict[str, ScoredSamples],
    metrics: dict[str, SplitMetrics],
    *,
    unreported: tuple[str, ...],
    with_baselines: bool,
) -> Iterator[ScorerMetrics]:
    """Metrics of the oracles, of the model by split, and of the baselines. The model's values are included for the
    splits in `unreported` only: no epoch has reported those.
    """
    oracles, shares = _oracles(setup, scored, metrics)
    yield from oracles
    for split, one in metrics.items():
        own = {name: value for name, value in shares.items() if name.startswith(f"{split}/")}
        values = {**(one.values if split in unreported else {}), **own}
        yield ScorerMetrics(source=None, values=values, daily=one.daily)
    if with_baselines:

        def beat(step: int, steps: int) -> None:
            epoch = setup.spec.trainer.max_epochs
            run.reporter.progress("baselines", fold=setup.fold, epoch=epoch, step=step, steps=steps)
            run.check()

        def warn(message: str) -> None:
            run.reporter.log(message, level="warning")

        for name, baseline in baselines(Fold.of(setup), scored, warn, beat).items():
            if baseline.evidence is not None:
                run.baselines.setdefault(name, []).append(baseline.evidence)
            yield ScorerMetrics(source=name, values=baseline.values, daily=baseline.daily)


def _oracles(
    setup: TrainingSetup, scored: dict[str, ScoredSamples], metrics: dict[str, SplitMetrics]
) -> tuple[list[ScorerMetrics], dict[str, float | None]]:
    """Metrics of the planted oracles, and the model's share of the observed-history oracle's."""
    scorers: list[ScorerMetrics] = []
    shares: dict[str, float | None] = {}
    for split, samples in scored.items():
        for name, best in oracle_scores(setup.cache, setup.train_spec, samples).items():
            oracle = split_metrics(best, setup.cache, setup.train_spec, split)
            scorers.append(ScorerMetrics(source=name, values=oracle.values, daily=oracle.daily))
            if name == "oracle_observed":
                shares |= oracle_share(metrics[split].values, oracle.values, split, setup.spec.data.horizons)
    return scorers, shares
