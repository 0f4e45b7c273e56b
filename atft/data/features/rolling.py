"""Rolling-window expressions of the feature formulas, over one stock's rows in time order; they only look back.

`d` counts rows of the listed span, today and halted days included. At least half of the d values must be known (one for
a mean of few days, two for a standard deviation), else the result is null. 0/0 is undefined and so null, never 0; a
window is constant if its largest and smallest value are equal, not by a rounded variance.
"""

import polars as pl


def mean(x: pl.Expr, d: int) -> pl.Expr:
    return x.rolling_mean(d, min_samples=max(1, d // 2))


def std(x: pl.Expr, d: int) -> pl.Expr:
    """Standard deviation, ddof 1; exactly 0 where the window is constant."""
    spread = x.rolling_std(d, min_samples=max(2, d // 2))
    return pl.when(spread.is_not_null()).then(pl.when(varies(x, d)).then(spread).otherwise(0.0))


def largest(x: pl.Expr, d: int) -> pl.Expr:
    return x.rolling_max(d, min_samples=max(1, d // 2))


def smallest(x: pl.Expr, d: int) -> pl.Expr:
    return x.rolling_min(d, min_samples=max(1, d // 2))


def varies(x: pl.Expr, d: int) -> pl.Expr:
    return x.rolling_max(d, min_samples=1) > x.rolling_min(d, min_samples=1)


def cov(x: pl.Expr, y: pl.Expr, d: int) -> pl.Expr:
    """E[xy] - E[x]E[y] of two columns with the same gaps."""
    return mean(x * y, d) - mean(x, d) * mean(y, d)


def corr(x: pl.Expr, y: pl.Expr, d: int) -> pl.Expr:
    """Pearson correlation over the days on which both are known; undefined where one of them is constant."""
    a = pl.when(y.is_not_null()).then(x)
    b = pl.when(x.is_not_null()).then(y)
    product = cov(a, a, d).clip(0.0) * cov(b, b, d).clip(0.0)
    return pl.when(varies(a, d) & varies(b, d) & (product > 0)).then((cov(a, b, d) / product.sqrt()).clip(-1.0, 1.0))


def ewm(x: pl.Expr, alpha: float, min_samples: int) -> pl.Expr:
    """Exponential mean Σ (1-α)^k x[k] / Σ (1-α)^k over the whole listed span so far, of at least `min_samples` values;
    a halted day counts as a day.
    """
    return x.ewm_mean(alpha=alpha, adjust=True, ignore_nulls=False, min_samples=min_samples)
