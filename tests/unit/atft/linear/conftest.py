"""A planted panel, a reader of it, and a copy of it whose later rows are scrambled."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from atft.data.builder.run import build
from atft.data.cache.reader import Cache
from atft.data.cache.windows import DayReader
from atft.spec.baselines import BaselinesSpec
from atft.spec.data import DatasetSpec

WINDOW, HORIZONS = 6, (1, 5)
SPEC = BaselinesSpec.model_validate(
    {
        "dataset": "panel",
        "data": {"window": WINDOW, "horizons": HORIZONS, "min_names": 5},
        "split": {"val_days": 30, "test_days": 30, "embargo_days": 6},
        "resources": {"device": "cpu", "threads": 1},
    }
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 40 stocks and 200 days, in correlated groups, with halts."""
    path = tmp_path_factory.mktemp("planted") / "cache"
    planted = {"num_codes": 40, "num_days": 200, "num_features": 6, "signal": 0.2, "seed": 3}
    spec = {"name": "panel", "horizons": HORIZONS, "planted": planted}
    build(DatasetSpec.model_validate(spec), path, lambda _: None, lambda: False)
    return path


@pytest.fixture
def cache(folder: Path) -> Cache:
    return Cache.open(folder)


@pytest.fixture
def reader_of() -> Callable[[Cache], DayReader]:
    return lambda cache: DayReader(cache, SPEC.data, None, torch.device("cpu"))


@pytest.fixture
def scrambled(folder: Path) -> Callable[[int], Cache]:
    """The panel with every feature, target, return and market column after a day replaced by noise."""

    def make(day: int) -> Cache:
        cache, rng = Cache.open(folder), np.random.default_rng(0)
        later = cache.day_index > day
        for array in (cache.features, cache.targets, cache.returns):
            noise = rng.normal(size=array[later].shape).astype(np.float32)
            array[later] = np.where(np.isfinite(array[later]), noise, array[later])
        cache.market = cache.market.copy()
        cache.market[day + 1 :] = rng.normal(size=cache.market[day + 1 :].shape)
        return cache

    return make
