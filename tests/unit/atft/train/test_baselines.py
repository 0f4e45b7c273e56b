import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from atft.data.cache.reader import Cache
from atft.events import Event, Finished, Metrics, Progress
from atft.spec.baselines import BaselinesSpec
from atft.spec.job import TrainSpec
from atft.train.baselines import MAX_COLUMNS, PENALTIES, choose_lags, ridge_paths
from atft.train.baselines_run import run_baselines

Make = Callable[..., TrainSpec]
NAMES = {"zero", "last_return", "ridge", "lightgbm"}


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


def test_ridge_paths_equal_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)), rng.normal(size=(50, 2))
    gram = x.T @ x
    paths = ridge_paths(gram, x.T @ y)
    scale = np.trace(gram) / 6
    for i, penalty in enumerate(PENALTIES):
        np.testing.assert_allclose(paths[:, i], np.linalg.solve(gram + penalty * scale * np.eye(6), x.T @ y), rtol=1e-9)


def test_lags_fill_the_columns_and_keep_the_last_day() -> None:
    assert choose_lags(20, 16) == tuple(range(20))
    few = choose_lags(60, 100)
    assert len(few) == MAX_COLUMNS // 100
    assert few[0] == 0
    assert max(few) < 60
    assert choose_lags(60, 5000) == (0,)


def test_pain_32_baselines_use_the_days_of_the_run_and_are_computed_once(
    run: Any, make_spec: Make, cache: Cache, tmp_path: Path
) -> None:
    spec = make_spec(**{"baselines": True, "trainer.max_epochs": 1})
    folder = cache.path / "baselines"
    shutil.rmtree(folder, ignore_errors=True)
    assert of_baselines(run(spec, "without", only_stored_baselines=True).events) == {}
    own_job = alone(spec, cache, tmp_path / "alone")
    assert any(isinstance(event, Progress) and event.phase == "baselines" for event in own_job)
    by_job = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    first = run(spec, "first")
    by_source = of_baselines(first.events)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == by_job
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
    bounds = json.loads(stored[0].read_text())["bounds"]
    assert bounds["rows"] > 0
    assert bounds["lags"] == list(range(6))
    stamp = [path.stat().st_mtime_ns for path in stored]
    other = make_spec(**{"baselines": True, "trainer.max_epochs": 1, "seed": 3, "model.hidden_size": 16})
    second = run(other, "second", only_stored_baselines=True)
    assert [path.stat().st_mtime_ns for path in stored] == stamp
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
