import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atft.data.builder.run import build
from atft.data.cache.reader import Cache
from atft.loss.regime import balanced_weights, daily_return_moments, day_weights, regimes
from atft.spec.data import DatasetSpec


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("regime") / "cache"
    spec = {"name": "p", "planted": {"num_codes": 12, "num_days": 200, "num_features": 5}, "horizons": [1]}
    build(DatasetSpec.model_validate(spec), folder, lambda _: None, lambda: False)
    return Cache.open(folder)


def test_weights_are_bounded_of_mean_1_in_training_and_1_elsewhere(cache: Cache) -> None:
    train = np.arange(60, 160)
    weights = day_weights(cache, train)
    assert weights[train].mean() == pytest.approx(1.0)
    assert weights.min() >= 0.5
    assert weights.max() <= 2.0
    assert weights[train].std() > 0.05
    assert (np.delete(weights, train) == 1).all()


@given(st.lists(st.integers(0, 8), min_size=1, max_size=300))
def test_any_regimes_can_be_balanced_within_the_bounds(regime: list[int]) -> None:
    weights = balanced_weights(np.array(regime))
    assert weights.mean() == pytest.approx(1.0)
    assert weights.min() >= 0.5 - 1e-12
    assert weights.max() <= 2.0 + 1e-12


def test_regimes_within_the_bounds_count_alike() -> None:
    weights = balanced_weights(np.array([0] * 30 + [1] * 20 + [5] * 40))
    assert weights[:30].sum() == pytest.approx(weights[30:50].sum())
    assert weights[:30].sum() == pytest.approx(weights[50:].sum())


def test_a_days_regime_is_not_changed_by_what_comes_later(cache: Cache) -> None:
    mean, square = daily_return_moments(cache)
    before = regimes(mean, square)
    later = np.arange(len(mean)) > 120
    after = regimes(np.where(later, 7 * mean, mean), np.where(later, 50 * square, square))
    assert (before[:121] == after[:121]).all()
    assert (before[121:] != after[121:]).any()


def test_high_volatility_with_high_correlation_is_the_highest_regime() -> None:
    rng = np.random.default_rng(0)
    apart = rng.standard_normal((200, 50))
    apart[150:] = 5 * rng.standard_normal((50, 1)) + 0.1 * apart[150:]
    found = regimes(apart.mean(axis=1), (apart**2).mean(axis=1))
    assert set(found[180:]) == {8}
    assert set(found[100:150]) - {8}


def test_return_moments_are_of_universe_members_that_trade(cache: Cache) -> None:
    day = 100
    rows = np.flatnonzero((cache.day_index == day) & cache.valid & cache.in_universe & np.isfinite(cache.returns))
    mean, square = daily_return_moments(cache)
    assert mean[day] == pytest.approx(cache.returns[rows].mean(), rel=1e-5)
    assert square[day] == pytest.approx((cache.returns[rows] ** 2).mean(), rel=1e-5)
