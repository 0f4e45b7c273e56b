import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from atft.data.cache.reader import Cache
from atft.events import Metrics
from atft.spec.job import TrainSpec
from atft.train.baselines import MAX_COLUMNS, PENALTIES, choose_lags, ridge_paths

Make = Callable[..., TrainSpec]
NAMES = {"zero", "last_return", "ridge", "lightgbm"}


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
    run: Any, make_spec: Make, cache: Cache
) -> None:
    spec = make_spec(**{"baselines": True, "trainer.max_epochs": 1})
    first = run(spec, "first")
    by_source = {event.source: event for event in first.of(Metrics) if event.source in NAMES}
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
    second = run(
        make_spec(**{"baselines": True, "trainer.max_epochs": 1, "seed": 3, "model.hidden_size": 16}), "second"
    )
    assert [path.stat().st_mtime_ns for path in stored] == stamp
    again = {event.source: event.values for event in second.of(Metrics) if event.source in NAMES}
    assert again == {name: event.values for name, event in by_source.items()}


def test_a_damaged_store_is_rebuilt(run: Any, make_spec: Make, cache: Cache) -> None:
    spec = make_spec(**{"baselines": True, "trainer.max_epochs": 1})
    before = run(spec, "first").rows
    for path in (cache.path / "baselines").glob("*.json"):
        path.write_text(path.read_text().replace("0.", "0.9", 1))
    after = run(spec, "second").rows
    assert {k: v for k, v in after.items() if k[0] in NAMES} == {
        k: pytest.approx(v) for k, v in before.items() if k[0] in NAMES
    }
