"""Rolling-window expressions against plain NumPy, with gaps, constant windows and short histories."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from atft.data.features import rolling

X = [1.0, 2.0, None, 4.0, 4.0, 4.0, 4.0, 9.0]
Y = [2.0, 1.0, 5.0, None, 1.0, 1.0, 3.0, 0.0]


def evaluate(expression: pl.Expr) -> list[float | None]:
    frame = pl.DataFrame({"x": pl.Series(X), "y": pl.Series(Y)})
    return frame.select(expression.alias("r"))["r"].to_list()


def windows(d: int) -> list[np.ndarray]:
    values = [np.nan if v is None else v for v in X]
    return [np.array([v for v in values[max(0, t - d + 1) : t + 1] if not np.isnan(v)]) for t in range(len(X))]


@pytest.mark.parametrize(
    ("function", "reference", "min_values"),
    [
        (rolling.mean, np.mean, 2),
        (rolling.std, lambda w: np.std(w, ddof=1), 2),
        (rolling.largest, np.max, 2),
        (rolling.smallest, np.min, 2),
    ],
)
def test_a_window_needs_half_of_its_values(
    function: Callable[[pl.Expr, int], pl.Expr], reference: Callable[[np.ndarray], float], min_values: int
) -> None:
    got = evaluate(function(pl.col("x"), 4))
    for value, window in zip(got, windows(4), strict=True):
        assert value == (pytest.approx(reference(window)) if len(window) >= min_values else None)


def test_a_constant_window_has_no_spread_and_no_correlation() -> None:
    assert evaluate(rolling.std(pl.col("x"), 4))[6] == 0.0
    assert evaluate(rolling.varies(pl.col("x"), 4))[6] is False
    assert evaluate(rolling.corr(pl.col("x"), pl.col("y"), 3))[6] is None


def test_correlation_uses_the_rows_where_both_are_known() -> None:
    known = [(a, b) for a, b in zip(X, Y, strict=True) if a is not None and b is not None]
    want = np.corrcoef(*np.array(known).T)[0, 1]
    assert evaluate(rolling.corr(pl.col("x"), pl.col("y"), 8))[-1] == pytest.approx(want)


def test_exponential_mean_weighs_by_age_and_counts_gaps() -> None:
    got = evaluate(rolling.ewm(pl.col("x"), 0.5, 3))
    assert got[1] is None  # two values
    assert got[3] == pytest.approx((4 + 2 * 0.5**2 + 1 * 0.5**3) / (1 + 0.5**2 + 0.5**3))
