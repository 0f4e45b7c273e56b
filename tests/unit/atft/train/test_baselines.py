import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atft.data.cache.reader import Cache
from atft.data.cache.splits import make_splits
from atft.data.cache.windows import DayReader
from atft.events import Event, Evidence, Finished, Log, Metrics, Progress
from atft.spec.baselines import BaselinesSpec
from atft.spec.job import TrainSpec
from atft.train import baseline_fits, trees
from atft.train.baselines_run import run_baselines

Make = Callable[..., TrainSpec]
NAMES = {"zero", "last_return", "ridge", "ridge_lags", "linear_ard", "lightgbm"}
FITTED = NAMES - {"zero", "last_return"}


def alone(spec: TrainSpec, cache: Cache, out: Path) -> list[Event]:
    """The events of a job of baselines, which must succeed."""
    events: list[Event] = []
    out.mkdir(exist_ok=True)
    last = run_baselines(BaselinesSpec.of(spec), cache, out, events.append, lambda: False)
    assert isinstance(last, Finished)
    assert [artifact.name for artifact in last.artifacts] == ["daily.parquet"]
    return events


def of_baselines(events: list[Event]) -> dict[str, Metrics]:
    return {event.source: event for event in events if isinstance(event, Metrics) and event.source in NAMES}


def test_pain_32_baselines_use_the_days_of_the_run_and_are_computed_once(
    run: Any, make_spec: Make, cache: Cache, tmp_path: Path
) -> None:
    spec = make_spec(**{"baselines": True, "trainer.max_epochs": 1})
    folder = cache.path / "baselines"
    shutil.rmtree(folder, ignore_errors=True)
    assert of_baselines(run(spec, "without", only_stored_baselines=True).events) == {}
    own_job = alone(spec, cache, tmp_path / "alone")
    assert any(isinstance(event, Progress) and event.phase == "baselines" for event in own_job)
    by_job = {path.name for path in folder.iterdir()}
    shutil.rmtree(folder)
    first = run(spec, "first")
    by_source = of_baselines(first.events)
    assert {path.name for path in folder.iterdir()} == by_job
    for name, event in of_baselines(own_job).items():
        assert (event.values, event.daily) == (by_source[name].values, by_source[name].daily)
    assert set(by_source) == NAMES
    own = next(e for e in first.of(Metrics) if e.source is None and "test/rank_ic" in e.values)
    for event in by_source.values():
        assert {"test/rank_ic@1d", "val/rank_ic@5d"} <= set(event.values)
    days = {tuple(series.days) for series in own.daily}
    assert {tuple(s.days) for s in by_source["ridge"].daily if s.split == "test"} == days
    assert by_source["zero"].values["test/rank_ic@1d"] is None
    assert by_source["ridge"].values["test/rank_ic@1d"] is not None
    stored = list((cache.path / "baselines").glob("*.json"))
    assert stored
    evidence = [event.body["baselines"] for event in own_job if isinstance(event, Evidence)][-1]
    for found in (evidence, first.of(Evidence)[-1].body["baselines"]):
        assert set(found) == FITTED
        for (one,) in found.values():
            assert one["days_share"] == 1.0
            assert 0.9 < one["rows_share"] <= 1.0
            assert one["seconds"] > 0
        assert {name: one["columns"] for name, (one,) in found.items()} == {
            "ridge": 40, "ridge_lags": 30, "linear_ard": 160, "lightgbm": 40,
        }  # fmt: skip
        assert set(found["ridge"][0]["penalties"]) == set(found["lightgbm"][0]["trees"]) == {"1", "5"}
    stamp = [path.stat().st_mtime_ns for path in stored]
    other = make_spec(**{"baselines": True, "trainer.max_epochs": 1, "seed": 3, "model.hidden_size": 16})
    second = run(other, "second", only_stored_baselines=True)
    assert [path.stat().st_mtime_ns for path in stored] == stamp
    assert second.of(Evidence)[-1].body["baselines"] == first.of(Evidence)[-1].body["baselines"]
    again = {name: event.values for name, event in of_baselines(second.events).items()}
    assert again == {name: event.values for name, event in by_source.items()}


def test_a_damaged_store_is_rebuilt(make_spec: Make, cache: Cache, tmp_path: Path) -> None:
    spec = make_spec(baselines=True)
    before = of_baselines(alone(spec, cache, tmp_path))
    for path in (cache.path / "baselines").glob("*.json"):
        path.write_text(path.read_text().replace("0.", "0.9", 1))
    after = of_baselines(alone(spec, cache, tmp_path))
    assert {name: (event.values, event.daily) for name, event in after.items()} == {
        name: (event.values, event.daily) for name, event in before.items()
    }


def test_what_is_too_large_is_left_out_and_said(
    make_spec: Make, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never fitted on fewer days: a bound leaves a baseline out."""
    monkeypatch.setattr(baseline_fits, "MAX_LAGS", 29)
    monkeypatch.setattr(baseline_fits, "MAX_JOINT", 159)
    monkeypatch.setattr(trees, "MAX_CELLS", 1000)
    spec = make_spec(**{"baselines": True, "data.min_names": 6})
    events = alone(spec, cache, tmp_path)
    found = [event.body["baselines"] for event in events if isinstance(event, Evidence)][-1]
    missing = {name: one.get("missing") for name, (one,) in found.items()}
    assert missing["ridge"] is None
    assert missing["ridge_lags"] == "30 columns are more than 29"
    assert missing["linear_ard"] == "160 columns are more than 159"
    assert "more than 1,000 cells: select fewer data.features" in missing["lightgbm"]
    warnings = " ".join(event.message for event in events if isinstance(event, Log))
    values = of_baselines(events)
    for name in FITTED - {"ridge"}:
        assert f"baseline {name}: {missing[name]}" in warnings
        assert values[name].values["test/rank_ic@5d"] is None
        assert "days_share" not in found[name][0]
    assert values["ridge"].values["test/rank_ic@5d"] is not None


def test_market_columns_alone_rank_nothing(make_spec: Make, cache: Cache, tmp_path: Path) -> None:
    spec = make_spec(**{"baselines": True, "data.features": list(cache.market_names)})
    events = alone(spec, cache, tmp_path)
    found = [event.body["baselines"] for event in events if isinstance(event, Evidence)][-1]
    assert {one["missing"] for (one,) in found.values()} == {
        "data.features selects market columns only, which are equal for all stocks"
    }
    assert of_baselines(events)["linear_ard"].values["test/rank_ic@1d"] is None


def test_scores_do_not_depend_on_what_comes_later(make_spec: Make, cache: Cache, tmp_path: Path) -> None:
    """Every value of the last test days is replaced: fits and the scores of earlier days stay as they are."""
    spec = BaselinesSpec.of(make_spec(baselines=True))
    (split,) = make_splits(cache, spec.data, spec.split)
    last = int(split.test[5])
    changed, rng = Cache.open(cache.path), np.random.default_rng(0)
    later = changed.day_index > last
    for array in (changed.features, changed.targets, changed.returns):
        array[later] = rng.normal(size=array[later].shape)
    scores = []
    for one in (cache, changed):
        reader = DayReader(one, spec.data, None, torch.device("cpu"))
        fits = baseline_fits.fit_baselines(reader, split, spec, lambda *_: None)
        scores.append(fits.scores(split.test[:6], lambda *_: None))
    assert set(scores[0]) == FITTED
    for name, values in scores[0].items():
        np.testing.assert_array_equal(values, scores[1][name])
        assert len(np.unique(values)) > len(values) // 10
