"""Several folds are independent runs reported as one: same bits, own metric names, their mean, every test day once."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from atft.data.cache.reader import Cache
from atft.events import Checkpointed, DailySeries, Event, Finished, Metrics, Progress, Stopped
from atft.spec.baselines import NAMES, BaselinesSpec
from atft.spec.job import TrainSpec
from atft.spec.reason import Reason
from atft.train.baselines_run import run_baselines
from atft.train.fold_mean import mean_daily, mean_values, with_fold_names
from tests.unit.atft.train.evidence_check import evidence_differences
from tests.unit.atft.train.test_resume import KillAt, Killed, StopAfter, last_weights

Make = Callable[..., TrainSpec]
SHORT = {"trainer.max_epochs": 2, "trainer.max_steps_per_epoch": 3}
KFOLD: dict[str, object] = {
    **SHORT,
    "split": {"kind": "purged_kfold", "folds": 3, "val_days": 10, "embargo_days": 7},
}


def daily_of(result: Any, name: str, split: str, horizon: int, source: str | None = None) -> DailySeries:
    (found,) = [
        one
        for event in result.of(Metrics)
        for one in event.daily
        if (event.source, one.name, one.split, one.horizon) == (source, name, split, horizon)
    ]
    return found


def test_the_last_fold_of_walk_forward_is_the_run_of_one_fold(
    run: Any, make_spec: Make, cache: Cache, tmp_path: Path
) -> None:
    """Weights, optimizer, seeds and days are reset: nothing of the first fold is left in the second."""
    one = run(make_spec(baselines=True, **SHORT), "one")
    spec = make_spec(baselines=True, **SHORT, **{"split.folds": 2})
    two = run(spec, "two")
    assert isinstance(two.last, Finished)
    assert (two.out / "best.2.safetensors").read_bytes() == (one.out / "best.safetensors").read_bytes()
    assert (two.out / "best.1.safetensors").read_bytes() != (one.out / "best.safetensors").read_bytes()
    for (source, name, step), value in one.rows.items():
        if not name.startswith("step/"):
            assert two.rows[(source, name.replace("/", ".2/", 1), step)] == value, (source, name)
    assert {source for source, _, _ in two.rows} >= {None, "ridge", "lightgbm", "zero", "last_return"}
    own = daily_of(one, "rank_ic", "test", 5)
    both = daily_of(two, "rank_ic", "test", 5)
    assert (both.days[-12:], both.values[-12:]) == (own.days, own.values)
    assert len(both.days) == 24
    assert daily_of(two, "rank_ic", "test", 5, "ridge").days == both.days
    events: list[Event] = []
    run_baselines(BaselinesSpec.of(spec), cache, tmp_path, events.append, lambda: False)
    alone = [event for event in events if isinstance(event, Metrics)]
    assert {(event.source, name): value for event in alone for name, value in event.values.items()} == {
        (source, name): value for (source, name, _), value in two.rows.items() if source in NAMES
    }
    assert [one for event in alone if event.source == "ridge" for one in event.daily] == [
        one for event in two.of(Metrics) if event.source == "ridge" for one in event.daily
    ]


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return {}


@pytest.fixture
def kfold(kept: dict[str, Any], run: Any, make_spec: Make) -> Any:
    """The uninterrupted run, computed once; `stop_checks` is how often it checked whether to stop."""
    if not kept:
        checks = StopAfter(10**9)
        kept["whole"] = run(make_spec(**KFOLD), "whole", stop=checks)
        kept["whole"].stop_checks = 10**9 - checks.left
    return kept["whole"]


def test_kfold_reports_each_fold_and_the_mean(kfold: Any, make_spec: Make, cache: Cache) -> None:
    assert isinstance(kfold.last, Finished)
    tests = {name for _, name, _ in kfold.rows if name.startswith("test")}
    assert {name.partition("/")[0] for name in tests} == {"test", "test.1", "test.2", "test.3"}
    latest = {name: value for (source, name, _), value in kfold.rows.items() if source is None}
    for name in ("test/rank_ic", "test/rank_ic@5d", "test/loss", "test/sharpe_ann@1d"):
        each = [latest[name.replace("/", f".{fold}/", 1)] for fold in (1, 2, 3)]
        assert latest[name] == math.fsum(each) / 3
    best = kfold.last.result["best"]
    objectives = [fold["value"] for fold in best["folds"]]
    assert best["value"] == math.fsum(objectives) / 3
    assert best["epoch"] == max(fold["epoch"] for fold in best["folds"])
    (event,) = [event for event in kfold.of(Metrics) if event.best]
    assert (event.step, event.values["val/rank_ic"]) == (best["epoch"], best["value"])
    assert kfold.last.result["test"]["test/rank_ic"] == latest["test/rank_ic"]

    series = daily_of(kfold, "rank_ic", "test", 5)
    assert series.days == [str(day) for day in cache.days[5 : 120 - 6]]
    assert daily_of(kfold, "rank_ic", "test", 5, "oracle_observed").days == series.days
    table = pq.read_table(kfold.out / "daily.parquet").to_pylist()
    rows = [r for r in table if (r["source"], r["split"], r["metric"], r["horizon"]) == ("", "test", "rank_ic", 5)]
    assert [row["value"] for row in rows] == series.values
    scores = pq.read_table(kfold.out / "predictions.parquet").to_pandas()
    tested = scores[scores["split"] == "test"]
    assert not tested.duplicated(["date", "code"]).any()
    assert set(tested["fold"]) == {1, 2, 3}

    ratios = [event.ratio for event in kfold.of(Progress)]
    assert ratios == sorted(ratios)
    saved = kfold.of(Checkpointed)
    assert [(event.fold, event.epoch) for event in saved] == [(1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
    names = {artifact.name for artifact in kfold.last.artifacts}
    assert {"best.1.safetensors", "best.2.safetensors", "best.3.safetensors"} <= names


def test_kfold_evidence_has_the_days_of_each_fold_and_holds(kfold: Any, make_spec: Make) -> None:
    spec, evidence = make_spec(**KFOLD), json.loads(json.dumps(kfold.evidence))
    assert evidence_differences(spec, evidence) == []
    folds = evidence["data"]["folds"]
    assert [sum(part["num_days"] for part in fold["test"]) for fold in folds] == [37, 36, 36]
    assert [len(fold["train"]) for fold in folds] == [1, 2, 1]
    assert len(evidence["data"]["test_days"]) == 109
    assert [len(fold["lr_by_epoch"]) for fold in evidence["folds"]] == [2, 2, 2]
    assert evidence["updates"] == 18

    shifted = json.loads(json.dumps(evidence))
    shifted["data"]["folds"][1]["val"][0]["first"] = shifted["data"]["folds"][1]["train"][0]["first"]
    assert evidence_differences(spec, shifted)[0].startswith("data.folds.1.val.0.first: ")
    slower = json.loads(json.dumps(evidence))
    slower["folds"][0]["lr_by_epoch"][1] = 1e-9
    assert "folds.0.lr_by_epoch, epoch 2" in evidence_differences(spec, slower)[0]
    short = {**evidence, "folds": evidence["folds"][:2]}
    assert "folds: " in evidence_differences(spec, short)[0]


def test_kfold_resumed_anywhere_is_bit_for_bit_the_same(kfold: Any, run: Any, make_spec: Make) -> None:
    spec, whole, stop_checks = make_spec(**KFOLD), kfold, kfold.stop_checks
    rows: dict[object, object] = {}
    parts: list[Any] = []
    resume = None
    for attempt, limit in enumerate((stop_checks // 5, stop_checks // 4, stop_checks // 3, stop_checks)):
        part = run(spec, f"{attempt}", stop=StopAfter(limit), resume=resume)
        rows |= part.rows
        parts.append(part)
        if isinstance(part.last, Finished):
            break
        assert isinstance(part.last, Stopped)
        resume = part.out / str(part.last.checkpoint)
    assert len(parts) == 4
    assert len({event.fold for part in parts for event in part.of(Checkpointed)}) == 3
    assert rows == whole.rows
    for name in ("best.1.safetensors", "best.3.safetensors", "daily.parquet", "predictions.parquet", "config.json"):
        assert (part.out / name).read_bytes() == (whole.out / name).read_bytes()
    assert last_weights(*parts) == last_weights(whole)
    assert part.last.result == whole.last.result
    for key in ("folds", "updates", "data"):
        assert part.evidence[key] == whole.evidence[key]


def test_a_kfold_killed_in_its_second_fold_resumes_bit_for_bit(
    kfold: Any, run: Any, make_spec: Make, tmp_path: Path
) -> None:
    spec, whole = make_spec(**KFOLD), kfold
    with pytest.raises(Killed):
        run(spec, "killed", stop=KillAt(whole.stop_checks * 2 // 5))
    kept = sorted((tmp_path / "killed" / "checkpoints").iterdir())[-1]
    assert len(json.loads((kept / "manifest.json").read_text())["loop"]["folds"]) == 2
    rest = run(spec, "rest", resume=kept)
    assert set(rest.rows.items()) <= set(whole.rows.items())
    assert (rest.out / "predictions.parquet").read_bytes() == (whole.out / "predictions.parquet").read_bytes()


def test_cpcv_trains_each_choice_of_blocks_and_averages_by_day(run: Any, make_spec: Make) -> None:
    split = {"kind": "cpcv", "folds": 4, "test_folds": 2, "val_days": 8, "embargo_days": 7}
    spec = make_spec(**{"trainer.max_epochs": 1, "trainer.max_steps_per_epoch": 1, "split": split})
    result = run(spec, "cpcv")
    assert isinstance(result.last, Finished)
    scores = pq.read_table(result.out / "predictions.parquet").to_pandas()
    tested = scores[scores["split"] == "test"]
    assert set(tested["fold"]) == set(range(1, 7))
    assert (tested.groupby("date")["fold"].nunique() == 3).all()
    series = daily_of(result, "rank_ic", "test", 1)
    assert len(series.days) == 109
    each = [result.rows[(None, f"test.{fold}/rank_ic@1d", 1)] for fold in range(1, 7)]
    assert result.rows[(None, "test/rank_ic@1d", 1)] == pytest.approx(np.mean(each))
    assert evidence_differences(spec, result.evidence) == []


def test_each_fold_stops_early_on_its_own(run: Any, make_spec: Make) -> None:
    changes = {**KFOLD, "trainer.max_epochs": 9, "trainer.early_stopping": {"patience": 1, "min_delta": 10.0}}
    result = run(make_spec(**changes), test=False)
    assert result.last.reason is Reason.EARLY_STOPPED
    assert result.last.result["test"] is None
    assert result.last.result["ending"].count("fold ") == 3
    assert [len(fold["lr_by_epoch"]) for fold in result.evidence["folds"]] == [2, 2, 2]
    assert not [name for _, name, _ in result.rows if name.startswith("test")]


def test_a_mean_over_folds_is_null_when_one_of_them_is() -> None:
    assert with_fold_names({"val/rank_ic@5d": 0.1}, 1, 3) == {"val.2/rank_ic@5d": 0.1}
    assert with_fold_names({"val/rank_ic@5d": 0.1}, 0, 1) == {"val/rank_ic@5d": 0.1}
    assert mean_values([{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": None}, {"a": 6.0}]) == {"a": 3.0, "b": None}

    def series(days: list[str], values: list[float | None]) -> list[DailySeries]:
        return [DailySeries(name="ic", split="test", horizon=1, days=days, values=values)]

    (merged,) = mean_daily(
        [series(["2020-01-02", "2020-01-03"], [1.0, None]), series(["2020-01-01", "2020-01-02"], [5.0, 3.0])]
    )
    assert merged.days == ["2020-01-01", "2020-01-02", "2020-01-03"]
    assert merged.values == [5.0, 2.0, None]
