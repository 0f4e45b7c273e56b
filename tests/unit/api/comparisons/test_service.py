"""Fairness and verdicts of comparisons, computed from specs and daily values."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from api.comparisons.fairness import Measure, Side, differences, parse_measure
from api.comparisons.schemas import Comparison
from api.comparisons.service import BASELINE, Baseline, compare, mean_by_day
from api.http.errors import Refused
from atft.spec.job import TrainSpec
from atft.spec.study import with_params
from jobs.states import JobState

MEASURE = Measure(split="test", metric="rank_ic", horizon=5)
FIRST = date(2020, 1, 1)
DAYS = {
    "train": ["2018-01-01", "2019-06-01"],
    "val": ["2019-07-01"],
    "test": [str(FIRST + timedelta(i)) for i in range(250)],
}


def daily(values: Sequence[float | None]) -> dict[date, float | None]:
    return {FIRST + timedelta(i): value for i, value in enumerate(values)}


def noise(seed: int, mean: float = 0.03, num_days: int = 250) -> list[float | None]:
    return list(np.random.default_rng(seed).normal(mean, 0.1, num_days))


def side(name: str, values: Sequence[float | None] | None = None, **changes: Any) -> Side:
    """`changes` are fields of the side, or of its spec when they have a dot or are a spec's own."""
    spec_changes = {key.replace("__", "."): value for key, value in changes.items() if key not in Side.__slots__}
    own = {key: value for key, value in changes.items() if key in Side.__slots__}
    spec = with_params(TrainSpec(dataset="d", name=name), spec_changes)
    fields: dict[str, Any] = {
        "id": str(uuid4()),
        "label": name,
        "name": name,
        "state": JobState.SUCCEEDED,
        "spec": spec,
        "fingerprint": "f1",
        "days": DAYS,
        "folds": [],
        "horizons": (1, 5, 10, 20),
        "daily": daily(noise(len(name)) if values is None else values),
    }
    return Side(**fields | own)


def found(*sides: Side, measure: Measure = MEASURE, baselines: dict[str, Any] | None = None) -> Comparison:
    return compare(
        sides, {name: Baseline(one, fair=name != "partial") for name, one in (baselines or {}).items()}, measure, {}
    )


def reasons(*sides: Side, measure: Measure = MEASURE) -> list[str]:
    comparison = found(*sides, measure=measure)
    assert comparison.fair == (not comparison.unfair_because)
    return comparison.unfair_because


def test_the_same_days_in_other_folds_are_unfair() -> None:
    same = [{"test": []}, {"test": []}]
    assert reasons(side("a", folds=same), side("bb", folds=same, optimizer__name="adabelief")) == []
    found_reasons = reasons(side("a", folds=same), side("bb", optimizer__name="adabelief"))
    assert found_reasons == ["the days are not cut into the same folds: 2 (a), 1 (bb)"]


def test_one_different_setting_is_fair() -> None:
    comparison = found(side("a"), side("bb", optimizer__name="adabelief"))
    assert (comparison.fair, comparison.unfair_because) == (True, [])
    assert comparison.differences == {"optimizer.name": ["adamw", "adabelief"]}
    assert comparison.metric == "test/rank_ic@5d"
    [pair] = comparison.pairs
    assert (pair.num_days, pair.num_dropped, pair.verdict) == (250, 0, "insufficient evidence")
    assert comparison.model_confidence_set is None


def test_three_values_of_one_setting_are_fair() -> None:
    sides = [side("a"), side("bb", model__hidden_size=128), side("ccc", model__hidden_size=64)]
    comparison = found(*sides)
    assert comparison.fair
    assert comparison.differences == {"model.hidden_size": [256, 128, 64]}
    assert len(comparison.pairs) == 3
    assert comparison.model_confidence_set == [one.id for one in sides]


def test_fields_that_are_no_settings_are_ignored() -> None:
    other = side("bb", optimizer__lr=1e-3, resources__threads=2, baselines=False, tags={"k": "v"})
    comparison = found(side("a"), other)
    assert comparison.fair
    assert set(comparison.differences) == {"optimizer.lr", "resources.threads", "baselines"}


def test_same_spec_with_another_seed_is_a_repetition() -> None:
    [reason] = reasons(side("a"), side("bb", seed=1))
    assert "differ in their seed only (0, 1)" in reason
    assert "repetition" in reason
    assert found(side("a"), side("bb", seed=1)).differences == {"seed": [0, 1]}


def test_the_same_spec_twice_is_no_comparison() -> None:
    [reason] = reasons(side("a"), side("bb"))
    assert "same settings" in reason


def test_a_different_setting_and_seed_are_confounded() -> None:
    [reason] = reasons(side("a"), side("bb", seed=1, optimizer__name="adabelief"))
    assert reason.startswith("the seeds differ (0, 1): the effect of optimizer.name")


def test_two_different_settings_are_named() -> None:
    [reason] = reasons(side("a"), side("bb", optimizer__name="adabelief", model__gat_layers=3))
    assert reason.startswith("2 settings differ (model.gat_layers, optimizer.name)")
    [reason] = reasons(side("a"), side("bb", optimizer__lr=1e-3), side("ccc", model__gat_layers=3))
    assert reason.startswith("2 settings differ")


def test_a_part_that_one_side_lacks_is_one_setting() -> None:
    comparison = found(side("a"), side("bb", trainer__early_stopping=None))
    assert comparison.fair
    assert list(comparison.differences) == ["trainer.early_stopping"]


def test_another_dataset_is_unfair() -> None:
    found_reasons = reasons(side("a"), side("bb", dataset="e", fingerprint="f2"))
    assert found_reasons[0] == "the data differ: fingerprints f1 (a), f2 (bb)"
    # another name of the same content is the same data
    assert reasons(side("a"), side("bb", dataset="d@1", optimizer__name="adabelief")) == []


def test_other_days_are_unfair() -> None:
    days = copy.deepcopy(DAYS)
    days["train"] = days["train"][1:]
    [reason] = reasons(side("a"), side("bb", days=days, optimizer__name="adabelief"))
    assert reason == (
        "the training days differ: 2 days 2018-01-01 to 2019-06-01 (a), 1 days 2019-06-01 to 2019-06-01 (bb)"
    )
    [reason] = reasons(side("a"), side("bb", days=None, optimizer__name="adabelief"))
    assert reason == "bb left no evidence of its days"


def test_missing_days_are_reported_and_dropped() -> None:
    values = noise(3)
    shorter = side("bb", values[:240], optimizer__name="adabelief")
    comparison = found(side("a"), shorter)
    assert comparison.unfair_because == ["the daily values are of different days: 250 and 240, 240 in common"]
    assert (comparison.pairs[0].num_days, comparison.pairs[0].num_dropped) == (240, 10)


def test_undefined_days_are_dropped_and_counted() -> None:
    values = [None, *noise(3)[1:]]
    comparison = found(side("a"), side("bb", values, optimizer__name="adabelief"))
    assert comparison.fair
    assert [job.num_days for job in comparison.jobs] == [250, 249]
    assert (comparison.pairs[0].num_days, comparison.pairs[0].num_dropped) == (249, 1)


def test_a_failed_job_has_no_value() -> None:
    failed = side("bb", [], state=JobState.FAILED, days=None, optimizer__name="adabelief")
    comparison = found(side("a"), failed)
    assert comparison.unfair_because == ["bb is failed: only a succeeded job has numbers to compare"]
    lost = comparison.jobs[1]
    assert (lost.state, lost.mean, lost.std, lost.ic_t, lost.num_days) == ("failed", None, None, None, 0)
    pair = comparison.pairs[0]
    assert (pair.mean_difference, pair.t, pair.p_value, pair.ci95) == (None, None, None, None)
    assert pair.verdict == "insufficient evidence"


def test_comparing_validation_days_warns_of_selection() -> None:
    measure = Measure(split="val", metric="rank_ic", horizon=5)
    [reason] = reasons(side("a"), side("bb", optimizer__name="adabelief"), measure=measure)
    assert "selected on these validation days" in reason


def test_a_missing_or_always_undefined_series_is_reported() -> None:
    found_reasons = reasons(side("a"), side("bb", [], optimizer__name="adabelief"))
    assert found_reasons == ["bb has no daily values of test/rank_ic@5d"]
    found_reasons = reasons(side("a"), side("bb", [None] * 250, optimizer__name="adabelief"))
    assert found_reasons == ["test/rank_ic@5d is undefined on every day of bb"]


def test_another_definition_of_the_metric_is_unfair() -> None:
    found_reasons = reasons(side("a"), side("bb", data__min_names=10))
    assert found_reasons == ["data.min_names differs: it changes how rank_ic is measured, not only the model"]
    assert reasons(side("a"), side("bb", evaluation__quantile=0.1)) == []
    measure = Measure(split="test", metric="long_short", horizon=5)
    assert len(reasons(side("a"), side("bb", evaluation__quantile=0.1), measure=measure)) == 1


def test_a_mean_over_other_horizons_is_unfair() -> None:
    other = side("bb", data__horizons=[1, 5], horizons=(1, 5))
    assert reasons(side("a"), other) == []
    [reason] = reasons(side("a"), other, measure=Measure(split="test", metric="rank_ic", horizon=None))
    assert "own horizons" in reason


def test_a_baseline_is_one_more_side() -> None:
    comparison = found(side("a"), baselines={"ridge": daily(noise(9, mean=-0.05)), "zero": daily([None] * 250)})
    assert comparison.fair  # one job: there is no other whose settings could differ
    assert [(job.id, job.state) for job in comparison.jobs[1:]] == [("baseline:ridge", None), ("baseline:zero", None)]
    assert comparison.pairs[0].b == BASELINE + "ridge"
    assert comparison.pairs[0].verdict == "a is better than ridge"
    assert comparison.pairs[1].verdict == "insufficient evidence"
    assert comparison.model_confidence_set is None  # no day on which all are defined
    assert comparison.differences == {}


def test_many_sides_are_each_tested_against_the_first() -> None:
    ten = [side("x" * (i + 1), optimizer__lr=1e-4 * (i + 1)) for i in range(10)]
    assert len(found(*ten).pairs) == 45
    eleven = [*ten, side("y", optimizer__lr=5e-3)]
    assert [pair.a for pair in found(*eleven).pairs] == [eleven[0].id] * 10


def test_pain_34_equal_skill_is_insufficient_evidence_in_about_95_percent() -> None:
    """Daily values of 5-day labels overlap, days are shared by both runs, and neither is better."""
    generator = np.random.default_rng(7)
    verdicts = []
    for _ in range(300):
        market, own_a, own_b = (np.convolve(generator.normal(0, 0.05, 254), np.ones(5), "valid") for _ in range(3))
        a, b = side("a", list(market + own_a)), side("bb", list(market + own_b), optimizer__name="adabelief")
        verdicts.append(found(a, b).pairs[0].verdict)
    assert 0.91 < np.mean([verdict == "insufficient evidence" for verdict in verdicts]) < 0.985


def test_identical_values_have_the_verdict_identical() -> None:
    [pair] = found(side("a", noise(1)), side("bb", noise(1), optimizer__name="adabelief")).pairs
    assert (pair.mean_difference, pair.p_value) == (0.0, None)
    assert pair.verdict == "a and bb are identical on all 250 days"


def test_the_mean_over_horizons_is_undefined_where_one_is() -> None:
    series = [daily([0.1, 0.2, None]), daily([0.3, None, None])]
    assert list(mean_by_day(series).values()) == [pytest.approx(0.2), None, None]
    assert mean_by_day([daily([0.1, 0.2]), daily([0.3])]) == {FIRST: pytest.approx(0.2), FIRST + timedelta(1): None}


def test_differences_of_a_field_that_one_spec_lacks() -> None:
    assert differences([{"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}]) == {"a.c": [None, 2]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rank_ic", "SPLIT/NAME"),
        ("test/rank_ic@5", "SPLIT/NAME"),
        ("train/rank_ic", "val/ and test/"),
        ("test/sharpe_ann@5d", "rank_ic, ic and long_short"),
        ("test/loss", "rank_ic, ic and long_short"),
        ("test/ic\x00", "SPLIT/NAME"),
    ],
)
def test_a_metric_that_cannot_be_paired_is_refused_with_those_that_can(text: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_measure(text)
    assert words in caught.value.detail
    [error] = caught.value.errors
    assert (error.parameter, error.location) == ("metric", "query")


def test_measures_are_read_and_written() -> None:
    for text in ("test/rank_ic@5d", "val/long_short", "test/ic@20d"):
        assert str(parse_measure(text)) == text


def test_the_number_of_members_is_a_setting_and_their_seeds_are_none() -> None:
    def ensemble(name: str, seeds: list[int]) -> Side:
        alone = side(name)
        return replace(alone, spec={**alone.spec, "seed": seeds, "members": len(seeds)})

    assert found(side("alone"), ensemble("three", [0, 1, 2])).fair
    assert found(ensemble("two", [0, 2]), ensemble("three", [0, 1, 2])).fair
    (other,) = found(side("alone", seed=5), ensemble("three", [0, 1, 2])).unfair_because
    assert "the effect of members cannot be separated from that of the seed" in other
    (again,) = found(ensemble("one", [0, 1]), ensemble("another", [0, 2])).unfair_because
    assert "repetition" in again


def test_no_verdict_against_a_baseline_that_saw_a_part_of_the_days() -> None:
    """The same values: better than a fair opponent, no verdict against a crippled one."""
    weak = daily(noise(9, mean=-0.5))
    fair = found(side("a"), baselines={"ridge": weak})
    assert (fair.fair, fair.pairs[0].verdict) == (True, "a is better than ridge")
    unfair = found(side("a"), baselines={"partial": weak})
    reason = "baseline partial was fitted on a part of the training days"
    assert not unfair.fair
    assert reason in unfair.unfair_because[0]
    assert unfair.pairs[0].verdict.startswith(f"no verdict: {reason}")
    assert unfair.pairs[0].p_value == fair.pairs[0].p_value
