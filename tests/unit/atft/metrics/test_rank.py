import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata, spearmanr

from atft.metrics import rank


def panel(sizes: tuple[int, ...] = (12, 9, 10), seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, targets and day in shuffled order, with ties."""
    generator = np.random.default_rng(seed)
    day = np.repeat(np.arange(len(sizes)), sizes)
    generator.shuffle(day)
    return generator.normal(size=len(day)).round(1), generator.normal(size=len(day)).round(1), day


def test_daily_ic_and_rank_ic_are_scipys() -> None:
    scores, targets, day = panel()
    ic = rank.daily_ic(scores, targets, day, num_days=3, min_names=3)
    rank_ic = rank.daily_rank_ic(scores, targets, day, num_days=3, min_names=3)
    for number in range(3):
        mine = day == number
        assert ic[number] == pytest.approx(pearsonr(scores[mine], targets[mine]).statistic, abs=1e-12)
        assert rank_ic[number] == pytest.approx(spearmanr(scores[mine], targets[mine]).statistic, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2)), min_size=1, max_size=30))
def test_average_ranks_are_scipys_within_each_day(rows: list[tuple[int, int]]) -> None:
    day, values = np.array([r[0] for r in rows]), np.array([float(r[1]) for r in rows])
    ranks = rank.average_ranks(values, day)
    for number in set(day):
        assert ranks[day == number].tolist() == rankdata(values[day == number]).tolist()


def test_no_samples_no_ranks() -> None:
    assert len(rank.average_ranks(np.empty(0), np.empty(0, dtype=np.int64))) == 0
    assert np.isnan(
        rank.daily_rank_ic(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64), num_days=2, min_names=3)
    ).all()


@pytest.mark.parametrize("level", [0.0, 0.1, 1e8 / 3])
def test_pain_32_constant_scores_are_undefined_not_zero(level: float) -> None:
    _, targets, day = panel()
    constant = np.full(len(day), level)
    for function in (rank.daily_ic, rank.daily_rank_ic):
        assert np.isnan(function(constant, targets, day, num_days=3, min_names=3)).all()
        assert np.isnan(function(targets, constant, day, num_days=3, min_names=3)).all()


def test_small_and_empty_days_are_undefined() -> None:
    scores, targets, day = panel((12, 9, 10))
    ic = rank.daily_ic(scores, targets, day, num_days=4, min_names=10)
    assert np.isfinite(ic).tolist() == [True, False, True, False]


def test_days_are_not_mixed() -> None:
    scores, targets, day = panel()
    shifted = scores + 100.0 * day
    np.testing.assert_allclose(
        rank.daily_ic(shifted, targets, day, num_days=3, min_names=3),
        rank.daily_ic(scores, targets, day, num_days=3, min_names=3),
    )


def test_average_of_defined_days() -> None:
    result = rank.average(np.array([0.1, np.nan, 0.3, -0.1]))
    assert result.mean == pytest.approx(0.1)
    assert result.std == pytest.approx(0.2)
    assert result.ratio == pytest.approx(0.5)
    assert result.share_positive == pytest.approx(2 / 3)
    assert (result.num_days, result.num_undefined_days) == (3, 1)


def test_averages_without_days_or_variation_are_none() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = rank.average(np.array([np.nan, np.nan]))
        assert (nothing.mean, nothing.std, nothing.ratio, nothing.share_positive) == (None, None, None, None)
        one = rank.average(np.array([0.2]))
        assert (one.mean, one.std, one.ratio) == (0.2, None, None)
        assert rank.average(np.full(5, 0.1)).ratio is None
