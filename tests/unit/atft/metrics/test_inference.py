import numpy as np
import pytest
from statsmodels.regression.linear_model import OLS

from atft.metrics.inference import (
    cosine_degrees_of_freedom,
    cosine_test,
    model_confidence_set,
    newey_west_lag,
    newey_west_t,
    paired_difference,
)


@pytest.mark.parametrize("horizon", [1, 5, 20])
def test_newey_west_is_the_regression_on_a_constant(horizon: int) -> None:
    values = np.random.default_rng(0).normal(0.05, 1, 120)
    lag = newey_west_lag(120, horizon)
    assert lag == max(horizon - 1, 4)
    fitted = OLS(values, np.ones(120)).fit(cov_type="HAC", cov_kwds={"maxlags": lag, "use_correction": False})
    assert newey_west_t(values, horizon) == pytest.approx(float(fitted.tvalues[0]))
    gaps = np.insert(values, 7, np.nan)
    assert newey_west_t(gaps, horizon) == newey_west_t(values, horizon)


def test_newey_west_without_enough_is_none() -> None:
    assert newey_west_t(np.array([0.1, 0.2]), 1) is None
    assert newey_west_t(np.full(50, 0.1), 1) is None
    assert newey_west_t(np.full(50, np.nan), 1) is None
    assert newey_west_lag(5, 20) == 3


def test_degrees_of_freedom() -> None:
    assert cosine_degrees_of_freedom(250, 1) == 15
    assert cosine_degrees_of_freedom(250, 20) == 6
    assert cosine_degrees_of_freedom(10, 20) == 2


def test_the_cosine_test_is_its_formula() -> None:
    values = np.random.default_rng(0).normal(0.1, 1, 50)
    test = cosine_test(values, 5)
    nu = test.degrees_of_freedom
    assert nu == 5
    variance = 0.0
    for j in range(1, nu + 1):
        total = sum(values[t - 1] * np.cos(np.pi * j * (t - 0.5) / 50) for t in range(1, 51))
        variance += (np.sqrt(2 / 50) * total) ** 2 / nu
    assert test.t == pytest.approx(values.mean() / np.sqrt(variance / 50))
    assert test.ci95 is not None
    assert np.mean(test.ci95) == pytest.approx(values.mean())
    assert (test.p_value < 0.05) == (test.ci95[0] > 0 or test.ci95[1] < 0)


@pytest.mark.parametrize("horizon", [1, 5, 20])
def test_pain_34_the_cosine_test_keeps_its_size_under_overlapping_labels(horizon: int) -> None:
    """Moving averages of h days have mean 0: a test at 5 % may reject in about 5 % of cases."""
    generator = np.random.default_rng(0)
    trials, rejected, naive = 1500, 0, 0
    noise = generator.normal(size=(trials, 250 + horizon - 1))
    sums = np.cumsum(np.concatenate([np.zeros((trials, 1)), noise], axis=1), axis=1)
    overlapping = sums[:, horizon:] - sums[:, :-horizon]
    for series in overlapping:
        test = cosine_test(series, horizon)
        assert test.p_value is not None
        rejected += test.p_value < 0.05
        naive += abs(series.mean() / series.std(ddof=1) * np.sqrt(250)) > 1.97
    assert 0.03 < rejected / trials < 0.075
    if horizon > 1:
        assert naive / trials > 0.3


def test_a_clear_difference_is_named_and_a_small_one_is_not() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(0, 0.1, 250)
    noise = generator.normal(0, 0.02, 250)
    better = paired_difference(list(base + 0.05 + noise), list(base), 1, a_name="adabelief", b_name="adamw")
    assert better.verdict == "adabelief is better than adamw"
    assert better.p_value is not None
    assert better.p_value < 0.001
    assert better.ci95 is not None
    assert better.ci95[0] < 0.05 < better.ci95[1]
    worse = paired_difference(list(base), list(base + 0.05 + noise), 1, a_name="adabelief", b_name="adamw")
    assert worse.verdict == "adamw is better than adabelief"
    assert worse.mean_difference == pytest.approx(-better.mean_difference)
    assert paired_difference(list(base + noise), list(base), 20).verdict == "insufficient evidence"


def test_days_without_both_are_dropped_and_counted() -> None:
    a: list[float | None] = [0.1, None, 0.3, 0.2, 0.4, 0.1, 0.2]
    b: list[float | None] = [0.0, 0.1, None, 0.1, 0.1, 0.3, 0.2]
    test = paired_difference(a, b, 1)
    assert (test.num_days, test.num_dropped) == (5, 2)
    assert test.mean_difference == pytest.approx(np.mean([0.1, 0.1, 0.3, -0.2, 0.0]))
    with pytest.raises(ValueError, match="same days"):
        paired_difference(a, b[:3], 1)


def test_identical_runs_and_empty_ones_have_no_p_value() -> None:
    same = paired_difference([0.1, 0.2, 0.3, 0.1, 0.0], [0.1, 0.2, 0.3, 0.1, 0.0], 1)
    assert same.p_value is None
    assert same.verdict == "a and b are identical on all 5 days"
    nothing = paired_difference([None, None], [0.1, 0.2], 1)
    assert nothing.mean_difference is None
    assert nothing.verdict == "insufficient evidence"


def test_the_confidence_set_keeps_models_indistinguishable_from_the_best() -> None:
    generator = np.random.default_rng(0)
    market = generator.normal(0, 0.1, (250, 1))
    values = market + generator.normal(0, 0.02, (250, 4)) + np.array([0.05, 0.0, 0.05, -0.02])
    assert model_confidence_set(values, 5) == (0, 2)
    assert model_confidence_set(values, 5) == model_confidence_set(values, 5)  # the seed is fixed


def test_the_confidence_set_keeps_identical_models_together_and_needs_days() -> None:
    values = np.random.default_rng(0).normal(size=(100, 2))
    assert model_confidence_set(values[:, [0, 0, 0]], 1) == (0, 1, 2)
    worse = np.concatenate([values[:, [0, 0]], values[:, [1]] - 3], axis=1)
    assert model_confidence_set(worse, 1) == (0, 1)
    assert model_confidence_set(values[:29], 1) is None
    assert model_confidence_set(values[:30], 1) is not None
    assert model_confidence_set(values, 5) is None
    with pytest.raises(ValueError, match="at least 2"):
        model_confidence_set(values[:, :1], 1)


@pytest.mark.parametrize(("horizon", "num_days"), [(1, 60), (5, 250)])
def test_the_confidence_set_drops_one_of_equals_rarely(horizon: int, num_days: int) -> None:
    """Of equal models each is a best one: at 95 % a set that misses one of them is to be rare."""
    generator = np.random.default_rng(0)
    kept = []
    for _ in range(60):
        sums = np.cumsum(generator.normal(size=(num_days + horizon, 3)), axis=0)
        kept.append(model_confidence_set(sums[horizon:] - sums[:-horizon], horizon) == (0, 1, 2))
    assert np.mean(kept) > 0.85  # 0.93 of 400; with every day, 0.8 at 5 days
