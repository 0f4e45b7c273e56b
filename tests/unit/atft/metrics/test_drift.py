import numpy as np
import pytest

from atft.metrics import drift


def test_psi_is_small_for_equal_and_large_for_shifted_distributions() -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(size=5000)
    assert drift.psi(reference, reference) == pytest.approx(0.0)
    assert drift.psi(reference, generator.normal(size=5000)) < 0.02
    assert drift.psi(reference, 1.0 + generator.normal(size=5000)) > drift.PSI_WARNING


def test_psi_by_hand() -> None:
    reference, scores = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 0.1, 0.2, 3.0])
    expected = (0.75 - 0.5) * np.log(0.75 / 0.5) + (0.25 - 0.5) * np.log(0.25 / 0.5)
    assert drift.psi(reference, scores, bins=2) == pytest.approx(expected)


def test_psi_is_none_without_a_distribution() -> None:
    assert drift.psi(np.zeros(5), np.arange(5.0)) is None
    assert drift.psi(np.empty(0), np.arange(5.0)) is None
    assert drift.psi(np.arange(5.0), np.empty(0)) is None
    assert np.isfinite(drift.psi(np.arange(50.0), np.full(50, 1000.0)))


def test_std_ratio_and_unique_share_by_day() -> None:
    day = np.array([0, 0, 1, 1, 1, 1])
    scores, targets = np.array([1.0, 3.0, 5.0, 5.0, 5.0, 6.0]), np.array([1.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    ratio = drift.daily_std_ratio(scores, targets, day, num_days=3)
    assert ratio[0] == pytest.approx(2.0)
    assert np.isnan(ratio[1:]).all()
    share = drift.daily_unique_share(scores, day, num_days=3)
    assert share[:2].tolist() == [1.0, 0.5]
    assert np.isnan(share[2])


def test_pain_23_degenerate_only_when_every_day_collapsed() -> None:
    fine, few = np.array([1.0, 1.0, np.nan]), np.array([0.1, 0.2, np.nan])
    wide, flat = np.array([0.5, 0.5, np.nan]), np.array([1e-8, 1e-7, np.nan])
    assert not drift.degenerate(fine, wide)
    assert drift.degenerate(few, wide)
    assert drift.degenerate(fine, flat)
    assert not drift.degenerate(np.array([0.1, 1.0]), np.array([0.5, 0.5]))
    assert not drift.degenerate(np.array([np.nan]), np.array([np.nan]))
