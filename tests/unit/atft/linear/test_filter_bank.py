import numpy as np
import pytest

from atft.linear import filter_bank
from atft.linear.filter_bank import NUM_MEANS, filtered, filters


@pytest.mark.parametrize("window", [2, 6, 20, 60])
def test_filters_are_the_last_day_and_means_of_growing_length(window: int) -> None:
    weights = filters(window)
    assert weights.shape == (window, 1 + NUM_MEANS)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0)
    assert weights[-1, 0] == 1.0
    ages = np.arange(window)[::-1] @ weights
    assert (np.diff(ages[1:]) > 0).all()
    np.testing.assert_allclose(weights[-2, 1] / weights[-1, 1], 0.5)  # a half-life of one day
    np.testing.assert_allclose(weights[0, -1] / weights[-1, -1], 0.5 ** ((window - 1) / window))


def test_a_window_of_one_day_has_one_filter() -> None:
    np.testing.assert_array_equal(filters(1), [[1.0]])


def test_filtered_windows_equal_their_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_bank, "_BLOCK_CELLS", 40)  # two windows at once
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(size=(30, 3)), filters(6)
    windows = np.arange(6) + np.array([0, 4, 11, 20, 24])[:, None]
    found = filtered(rows, windows, weights)
    for stock, window in enumerate(windows):
        for feature in range(3):
            for number in range(weights.shape[1]):
                expected = sum(rows[row, feature] * weights[age, number] for age, row in enumerate(window))
                assert found[stock, feature * weights.shape[1] + number] == pytest.approx(expected, abs=1e-14)
