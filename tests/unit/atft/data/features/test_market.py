"""Market-wide columns: past-only normalisation and point-in-time joins."""

import numpy as np
import pytest

from atft.data.features.market import derived_columns, normalise_by_past, trailing, user_columns


def test_past_normalisation_equals_loops_and_never_looks_ahead() -> None:
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.standard_normal(400))
    x[50:60] = np.nan
    got = normalise_by_past(x)
    for t in (10, 19, 55, 120, 300, 399):
        past = x[max(0, t - 251) : t + 1]
        past = past[np.isfinite(past)]
        want = 0.0 if np.isnan(x[t]) or len(past) < 20 else np.clip((x[t] - past.mean()) / past.std(), -5, 5)
        assert got[t] == pytest.approx(want, abs=1e-9)
    later = x.copy()
    later[200:] *= 7
    np.testing.assert_array_equal(normalise_by_past(later)[:200], got[:200])
    assert (normalise_by_past(np.ones(50)) == 0).all()


def test_derived_columns() -> None:
    rng = np.random.default_rng(1)
    returns = 0.01 * rng.standard_normal((30, 8))
    returns[3, 2] = np.nan
    valid = np.ones((30, 8), np.bool_)
    valid[5, 1] = False
    day = np.repeat(np.arange(30), 8)
    got = derived_columns(returns.reshape(-1), valid.reshape(-1), day, 30)
    used = [returns[d][valid[d] & np.isfinite(returns[d])] for d in range(30)]
    np.testing.assert_allclose(got["market_return_1"], [u.mean() for u in used])
    np.testing.assert_allclose(got["market_dispersion"], [u.std() for u in used])
    np.testing.assert_allclose(got["market_breadth"], [(u > 0).mean() for u in used])
    assert got["market_volatility_20"][25] == pytest.approx(np.std([u.mean() for u in used[6:26]]))
    assert np.isnan(got["market_return_20"][:19]).all()


def test_user_series_use_the_latest_value_up_to_the_day() -> None:
    days = np.busday_offset(np.datetime64("2020-01-01"), np.arange(25)).astype("datetime64[D]")
    dates = days[[0, 1, 3]]
    got = user_columns(
        {"VIX": (dates, np.array([10.0, 11.0, 13.0])), "SPREAD": (dates, np.array([-1.0, 0.0, 2.0]))}, days
    )
    np.testing.assert_allclose(got["VIX_level"][:5], np.arcsinh([10, 11, 11, 13, 13]))
    np.testing.assert_allclose(got["SPREAD_change_1"][1:5], [np.arcsinh(1), 0, np.arcsinh(2), 0])
    np.testing.assert_allclose(got["VIX_change_1"][3], np.log(13 / 11), rtol=0.01)
    assert np.isnan(got["VIX_level"][-1])  # more than a week old
    assert np.isnan(got["VIX_change_20"][:20]).all()


def test_trailing() -> None:
    assert trailing(np.array([1.0, 2.0, 3.0]), 2)[1:].tolist() == [[1.0, 2.0], [2.0, 3.0]]


def test_a_later_sign_of_a_series_changes_nothing_before_it() -> None:
    days = np.busday_offset(np.datetime64("2020-01-01"), np.arange(40)).astype("datetime64[D]")
    levels = np.linspace(20, 30, 40)
    turned = np.where(np.arange(40) == 39, -1.0, levels)
    before, after = (
        user_columns({"OIL": (days, levels)}, days),
        user_columns({"OIL": (days, turned)}, days),
    )
    for name, values in before.items():
        np.testing.assert_array_equal(values[:39], after[name][:39])
