"""The end of a run:

the best weights of each fold judged on its validation and test days, beside the oracle and the baselines, and written
down.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from atft.events import Artifact, DailySeries, Finished, Metrics
from atft.metrics.rank import uniform_ranks
from atft.spec.pretrain import PretrainSpec
from atft.spec.reason import Reason
from atft.train import checkpoint
from atft.train.averages import Values, in_fold, mean_daily, mean_values
from atft.train.evaluate import (
    ORACLE_SHARE,
    Judged,
    Scored,
    judge,
    oracle_scores,
    oracle_share,
    predict,
    with_scores,
)
from atft.train.outputs import Predictions, Series, prediction_table, write
from atft.train.report import RunError
from atft.train.run import Attempt
from atft.train.setup import Assembly, network_of, objective_of
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

    With several folds `val/…` is the mean over folds of each one's best epoch, told at the last of these epochs; of an
    ensemble it is what its own scores are worth. Raises RunError, StopRequested; OSError when the disk is full.
    """
    folds, ensemble = attempt.state.folds, attempt.assembly.ensemble is not None
    step = max(fold.best_epoch for fold in folds)
    best = mean_values([fold.best_metrics for fold in folds])
    if len(folds) > 1 and not ensemble:
        attempt.reporter.metrics(Metrics(step=step, values=best, best=True))
    if isinstance(attempt.spec, PretrainSpec):  # it scores nothing: test days have no part in it
        artifacts = write(attempt.assembly, attempt.out, None, attempt.tell_evidence())
        return _finished(attempt, step, best, artifacts, None)
    with Predictions(attempt.out / "predictions.parquet") as predictions:
        said = (_by_members if ensemble else _by_folds)(attempt, step, predictions, test=test)
    series: Series = [(one.source or "", series) for one in said for series in one.daily]
    artifacts = write(attempt.assembly, attempt.out, series, attempt.tell_evidence())
    own = {name: value for one in said if one.source is None for name, value in one.values.items()}
    own = {name: value for name, value in own.items() if ORACLE_SHARE not in name}
    if ensemble:
        best = {name: value for name, value in own.items() if name.startswith("val/")}
    tested = {name: value for name, value in own.items() if name.startswith("test/")}
    return _finished(attempt, step, best, artifacts, tested if test else None)


def _by_folds(attempt: Attempt, step: int, predictions: Predictions, *, test: bool) -> list[Said]:
    """Each fold's best weights on its own days; of several also the mean."""
    folds, several = attempt.state.folds, attempt.num_folds > 1
    said: list[list[Said]] = [[] for _ in folds]
    for number, fold in enumerate(folds):
        one = _Fold(attempt, number, fold)
        scored = one.score(test=test)
        predictions.add(prediction_table(one.assembly, scored))
        for words in _told(attempt, one.assembly, scored, one.judge(scored), untold=("test",)):
            said[number].append(words)
            attempt.reporter.metrics(
                Metrics(
                    step=fold.best_epoch,
                    values=in_fold(words.values, number, len(folds)),
                    daily=[] if several else words.daily,
                    source=words.source,
                )
            )
    if not several:
        return said[0]
    means = [_mean(parts) for parts in zip(*said, strict=True)]
    for words in means:
        attempt.reporter.metrics(Metrics(step=step, values=words.values, daily=words.daily, source=words.source))
    return means


def _by_members(attempt: Attempt, step: int, predictions: Predictions, *, test: bool) -> list[Said]:
    """An ensemble's scores, the mean of its members' ranks, beside the same oracles and baselines as any run."""
    sums: dict[str, Scored] = {}
    for number, state in enumerate(attempt.state.folds):
        member = _Fold(attempt, number, state)
        scored = member.score(test=test)
        judged = member.judge(scored)
        if test:
            values = in_fold(judged["test"].values, number, attempt.num_folds)
            attempt.reporter.metrics(Metrics(step=state.best_epoch, values=values))
        for split, one in scored.items():
            ranks = uniform_ranks(one.scores, one.day)
            sums[split] = with_scores(one, ranks + sums[split].scores if split in sums else ranks)
    assembly = attempt.assembly
    mean = {split: with_scores(one, one.scores / attempt.num_folds) for split, one in sums.items()}
    predictions.add(prediction_table(assembly, mean))
    said = list(_told(attempt, assembly, mean, _judge(attempt, assembly, mean), untold=("val", "test")))
    for words in said:
        best = words.source is None and words.daily[0].split == "val"
        attempt.reporter.metrics(
            Metrics(step=step, values=words.values, daily=words.daily, source=words.source, best=best)
        )
    return said


def _finished(
    attempt: Attempt, step: int, metrics: Values, artifacts: list[Artifact], tested: Values | None
) -> Finished:
    return Finished(
        artifacts=artifacts,
        result={"best": _best(attempt, step, metrics), "test": tested, "ending": _ending(attempt)},
        reason=_reason(attempt.state.folds),
    )


def _mean(parts: tuple[Said, ...]) -> Said:
    return Said(
        source=parts[0].source,
        values=mean_values([one.values for one in parts]),
        daily=mean_daily([one.daily for one in parts]),
    )


def _best(attempt: Attempt, step: int, metrics: Values) -> dict[str, object]:
    """`metrics` are those of the whole run; `folds`, or an ensemble's `members`, each one's own."""
    folds, objective = attempt.state.folds, attempt.spec.trainer.objective
    several = "folds" if attempt.assembly.ensemble is None else "members"
    own = [{"epoch": fold.best_epoch, "value": fold.best_value, "metrics": fold.best_metrics} for fold in folds]
    return {
        "epoch": step,
        "objective": objective,
        "value": metrics.get(objective),
        "metrics": dict(metrics),
        **({several: own} if len(folds) > 1 else {}),
    }


def _ending(attempt: Attempt) -> str | None:
    folds = attempt.state.folds
    if len(folds) == 1:
        return folds[0].end_message or None
    said = [f"{attempt.fold_name(number)}: {fold.end_message}" for number, fold in enumerate(folds) if fold.end_message]
    return "; ".join(said) or None


def _reason(folds: list[FoldState]) -> Reason | None:
    """A stop rule that ended any fold says more than early stopping."""
    reasons = {fold.end_reason for fold in folds}
    return next((reason for reason in (Reason.STOP_RULE, Reason.EARLY_STOPPED) if reason in reasons), None)


class _Fold:
    """The best weights of one fold or member, and what they are worth."""

    def __init__(self, attempt: Attempt, number: int, state: FoldState) -> None:
        self.assembly = replace(attempt.assembly, fold=number)
        self.weights = attempt.out / checkpoint.best_name(number, attempt.num_folds)
        self.attempt = attempt
        self.state = state
        self.number = number
        self.losses: dict[str, float | None] = {}

    def score(self, *, test: bool) -> dict[str, Scored]:
        """By split."""
        assembly = self.assembly
        network = network_of(assembly.spec, assembly.reader.num_features).to(assembly.device)
        network.load_state_dict(checkpoint.load_weights(self.weights))
        phase, _ = assembly.spec.trainer.phase_of(self.state.best_epoch - 1)  # the loss that these weights learnt by
        objective = objective_of(assembly.spec, assembly.cache, assembly.split.train, phase.loss)
        scored: dict[str, Scored] = {}
        for split, days in {"val": assembly.split.val, **({"test": assembly.split.test} if test else {})}.items():
            scored[split], self.losses[split] = predict(
                network,
                assembly.reader,
                objective,
                days,
                micro_batch_days=self.attempt.state.micro_batch_days,
                heartbeat=self.attempt.heartbeat(
                    "test" if split == "test" else "validate", assembly.fold, self.state.epoch, len(days)
                ),
            )
        return scored

    def judge(self, scored: dict[str, Scored]) -> dict[str, Judged]:
        """Raises RunError naming the member whose scores are no numbers."""
        try:
            judged = _judge(self.attempt, self.assembly, scored, self.number)
        except RunError as error:
            raise RunError(error.reason, f"{error}{self.attempt.of_fold(self.number)}") from error
        if "test" in judged:
            judged["test"].values["test/loss"] = self.losses["test"]
        return judged


def _judge(
    attempt: Attempt, assembly: Assembly, scored: dict[str, Scored], number: int | None = None
) -> dict[str, Judged]:
    """`number` is that of the fold or member whose scores these are."""
    name = f".{number + 1}" if number is not None and attempt.num_folds > 1 else ""
    judged = {split: judge(one, assembly.cache, assembly.training, split) for split, one in scored.items()}
    for split, outcome in judged.items():
        for warning in outcome.warnings:
            attempt.reporter.log(f"{split}{name}: {warning}", level="warning")
    return judged


def _told(
    attempt: Attempt,
    assembly: Assembly,
    scored: dict[str, Scored],
    judged: dict[str, Judged],
    *,
    untold: tuple[str, ...],
) -> Iterator[Said]:
    """Oracles, the model's own by split, baselines. `untold` are the splits whose values no epoch has told before."""
    oracles, shares = _oracles(assembly, scored, judged)
    yield from oracles
    for split, outcome in judged.items():
        own = {name: value for name, value in shares.items() if name.startswith(f"{split}/")}
        yield Said(source=None, values={**(outcome.values if split in untold else {}), **own}, daily=outcome.daily)
    if "test" in scored and assembly.training.baselines:
        from atft.train.baselines import baselines  # noqa: PLC0415 - LightGBM is loaded only where it is asked for

        for name, one in baselines(assembly, scored, attempt.reporter, attempt.check).items():
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
