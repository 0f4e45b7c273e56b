import numpy as np

from atft.linear.ard import FIRST_VARIANCE, STEPS, fit_ard
from atft.linear.sums import Sums

GROUP, HORIZONS = 3, (1, 5)


def draw() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 4 * GROUP)) * rng.uniform(0.2, 3.0, 4 * GROUP)
    truth = np.zeros((4 * GROUP, 2))
    truth[:GROUP] = rng.normal(size=(GROUP, 2))  # one group of four says something
    return x, x @ truth + 2.0 * rng.normal(size=(400, 2))


def sums_of(x: np.ndarray, y: np.ndarray) -> Sums:
    sums = Sums.empty(x.shape[1], y.shape[1])
    for part in np.array_split(np.arange(len(x)), 7):
        sums.add(x[part], y[part])
    return sums


def test_equal_to_a_dense_computation() -> None:
    """Expectation maximization written out with the samples themselves."""
    x, y = draw()
    scale = np.sqrt((x**2).mean(axis=0))
    z = x / scale
    variances, noise = np.full(4, FIRST_VARIANCE), (y**2).mean(axis=0) * HORIZONS
    for _ in range(STEPS):
        means, moments = [], []
        for h in range(2):
            prior = np.diag(1.0 / np.repeat(variances, GROUP))
            posterior = np.linalg.inv(z.T @ z / noise[h] + prior)
            mean = posterior @ z.T @ y[:, h] / noise[h]
            means.append(mean)
            moments.append(mean**2 + np.diag(posterior))
        variances = np.mean(moments, axis=0).reshape(4, GROUP).mean(axis=1)
        noise = np.array([((y[:, h] - z @ means[h]) ** 2).mean() * HORIZONS[h] for h in range(2)])
    steps: list[tuple[int, int]] = []
    found = fit_ard(sums_of(x, y), GROUP, HORIZONS, lambda step, of: steps.append((step, of)))
    np.testing.assert_allclose(found.coefficients, np.transpose(means) / scale[:, None], atol=1e-8, rtol=1e-8)
    np.testing.assert_allclose(found.variances, variances, rtol=1e-8)
    np.testing.assert_allclose(found.noise, noise, rtol=1e-8)
    assert steps[-1] == (STEPS, STEPS)


def test_the_group_that_says_something_has_the_largest_variance() -> None:
    found = fit_ard(sums_of(*draw()), GROUP, HORIZONS, lambda *_: None)
    assert found.variances[0] > 20 * found.variances[1:].max()


def test_columns_that_are_constant_have_no_coefficient() -> None:
    x, y = draw()
    x[:, 4] = 0.0
    x[:, 5] = 1e-17 * np.random.default_rng(0).normal(size=len(x))  # what rounding leaves of a constant
    found = fit_ard(sums_of(x, y), GROUP, HORIZONS, lambda *_: None)
    assert np.isfinite(found.coefficients).all()
    assert np.abs(x[:, 4:6] @ found.coefficients[4:6]).max() < 1e-6
