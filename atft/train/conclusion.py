"""The end of a run:

the best weights of each fold judged on its validation and test days, beside the oracle and the baselines, and written
down.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from atft.events import Artifact, DailySeries, Finished, Metrics
from atft.spec.pretrain import PretrainSpec
from atft.spec.reason import Reason
from atft.train import checkpoint
from atft.train.attempt import Attempt
from atft.train.averages import Values, in_fold, mean_daily, mean_values
from atft.train.evaluate import ORACLE_SHARE, Judged, Scored, judge, oracle_scores, oracle_share, predict
from atft.train.outputs import Predictions, Series, prediction_table, write
from atft.train.setup import Assembly, network_of
from atft.train.state import FoldState


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """The end's metrics by one scorer; `source` is null for the model's own. Every fold says the same things in the
    same order.
    """

    source: str | None
    values: Values
    daily: list[DailySeries] = field(default_factory=list)


def conclude(attempt: Attempt, *, test: bool) -> Finished:
    """With `test` the test days are scored, once, and the baselines with them.

    With several folds `val/…` is the mean over folds of each one's best epoch, told at the last of these epochs.
    Raises RunError, StopRequested; OSError when the disk is full.
    """
    folds, several = attempt.state.folds, attempt.num_folds > 1
    step = max(fold.best_epoch for fold in folds)
    if several:
        values = mean_values([fold.best_metrics for fold in folds])
        attempt.reporter.metrics(Metrics(step=step, values=values, best=True))
    if isinstance(attempt.spec, PretrainSpec):  # it scores nothing: test days have no part in it
        artifacts = write(attempt.assembly, attempt.out, None, attempt.tell_evidence())
        return _finished(attempt, step, artifacts, None)
    said: list[list[Said]] = [[] for _ in folds]
    with Predictions(attempt.out / "predictions.parquet") as predictions:
        for number, fold in enumerate(folds):
            for one in _Fold(attempt, number, fold, predictions).judge(test=test):
                said[number].append(one)
                attempt.reporter.metrics(
                    Metrics(
                        step=fold.best_epoch,
                        values=in_fold(one.values, number, len(folds)),
                        daily=[] if several else one.daily,
                        source=one.source,
                    )
                )
    means = [_mean(parts) for parts in zip(*said, strict=True)] if several else said[0]
    if several:
        for one in means:
            attempt.reporter.metrics(Metrics(step=step, values=one.values, daily=one.daily, source=one.source))
    series: Series = [(one.source or "", series) for one in means for series in one.daily]
    artifacts = write(attempt.assembly, attempt.out, series, attempt.tell_evidence())
    own = {name: value for one in means if one.source is None for name, value in one.values.items()}
    tested = {name: value for name, value in own.items() if name.startswith("test/") and ORACLE_SHARE not in name}
    return _finished(attempt, step, artifacts, tested if test else None)


def _finished(attempt: Attempt, step: int, artifacts: list[Artifact], tested: Values | None) -> Finished:
    folds = attempt.state.folds
    return Finished(
        artifacts=artifacts,
        result={"best": _best(attempt, step), "test": tested, "ending": _ending(folds)},
        reason=_reason(folds),
    )


def _mean(parts: tuple[Said, ...]) -> Said:
    return Said(
        source=parts[0].source,
        values=mean_values([one.values for one in parts]),
        daily=mean_daily([one.daily for one in parts]),
    )


def _best(attempt: Attempt, step: int) -> dict[str, object]:
    """Of several folds the mean, and `folds` each one's own."""
    folds, objective = attempt.state.folds, attempt.spec.trainer.objective
    metrics = mean_values([fold.best_metrics for fold in folds])
    own = [{"epoch": fold.best_epoch, "value": fold.best_value, "metrics": fold.best_metrics} for fold in folds]
    return {
        "epoch": step,
        "objective": objective,
        "value": metrics.get(objective),
        "metrics": metrics,
        **({"folds": own} if len(folds) > 1 else {}),
    }


def _ending(folds: list[FoldState]) -> str | None:
    if len(folds) == 1:
        return folds[0].end_message or None
    said = [f"fold {number}: {fold.end_message}" for number, fold in enumerate(folds, 1) if fold.end_message]
    return "; ".join(said) or None


def _reason(folds: list[FoldState]) -> Reason | None:
    """A stop rule that ended any fold says more than early stopping."""
    reasons = {fold.end_reason for fold in folds}
    return next((reason for reason in (Reason.STOP_RULE, Reason.EARLY_STOPPED) if reason in reasons), None)


class _Fold:
    """One fold's best weights and what they are worth."""

    def __init__(self, attempt: Attempt, number: int, state: FoldState, predictions: Predictions) -> None:
        self.assembly = replace(attempt.assembly, fold=number)
        self.weights = attempt.out / checkpoint.best_name(number, attempt.num_folds)
        self.attempt = attempt
        self.state = state
        self.predictions = predictions
        self.name = f".{number + 1}" if attempt.num_folds > 1 else ""

    def judge(self, *, test: bool) -> Iterator[Said]:
        """Oracles, the model's own by split, baselines."""
        assembly, reporter = self.assembly, self.attempt.reporter
        network = network_of(assembly.spec, assembly.reader.num_features).to(assembly.device)
        network.load_state_dict(checkpoint.load_weights(self.weights))
        scored: dict[str, Scored] = {}
        judged: dict[str, Judged] = {}
        for split, days in {"val": assembly.split.val, **({"test": assembly.split.test} if test else {})}.items():
            scored[split], loss = predict(
                network,
                assembly.reader,
                assembly.objective,
                days,
                micro_batch_days=self.attempt.state.micro_batch_days,
                heartbeat=self.attempt.heartbeat(
                    "test" if split == "test" else "validate", assembly.fold, self.state.epoch, len(days)
                ),
            )
            judged[split] = judge(scored[split], assembly.cache, assembly.training, split)
            if split == "test":
                judged[split].values["test/loss"] = loss
            for warning in judged[split].warnings:
                reporter.log(f"{split}{self.name}: {warning}", level="warning")
        self.predictions.add(prediction_table(assembly, scored))
        oracles, shares = _oracles(assembly, scored, judged)
        yield from oracles
        for split, outcome in judged.items():
            own = {name: value for name, value in shares.items() if name.startswith(f"{split}/")}
            values = {**(outcome.values if split == "test" else {}), **own}
            yield Said(source=None, values=values, daily=outcome.daily)
        if test and assembly.training.baselines:
            from atft.train.baselines import baselines  # noqa: PLC0415 - LightGBM is loaded only where it is asked for

            for name, one in baselines(assembly, scored, reporter, self.attempt.check).items():
                yield Said(source=name, values=one.values, daily=one.daily)


def _oracles(
    assembly: Assembly, scored: dict[str, Scored], judged: dict[str, Judged]
) -> tuple[list[Said], dict[str, float | None]]:
    """The planted oracles, judged as baselines are; the model's share of the observed-history one."""
    said: list[Said] = []
    shares: dict[str, float | None] = {}
    for split, samples in scored.items():
        for name, best in oracle_scores(assembly.cache, assembly.training, samples).items():
            oracle = judge(best, assembly.cache, assembly.training, split)
            said.append(Said(source=name, values=oracle.values, daily=oracle.daily))
            if name == "oracle_observed":
                shares |= oracle_share(judged[split].values, oracle.values, split, assembly.spec.data.horizons)
    return said, shares
