"""The documented feature set, targets and market beta of a price panel. Every expression looks back only, and never
across stocks.

The set follows the spirit of Alpha158 (microsoft/qlib): candles, returns, moving averages, trends, ranges, volatility,
volume. Notation: o h l c v are the day's prices and volume, r the daily return, m the market's return, c[k] the close k
days before, mean/std/… over the last d trading days of the stock (today included), of which at least half must be
there. Halted days repeat the last close with volume 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

BETA_DAYS, BETA_MIN_DAYS = 120, 20
TINY = 1e-12
BLOCK = 8  # features computed at once: bounds memory at 8 columns of float64


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    name: str
    formula: str
    value: pl.Expr


def _c() -> pl.Expr:
    return pl.col("close")


def _r() -> pl.Expr:
    return pl.col("return")


def _mean(x: pl.Expr, d: int) -> pl.Expr:
    return x.rolling_mean(d, min_samples=max(1, d // 2))


def _std(x: pl.Expr, d: int) -> pl.Expr:
    """√(E[x²] - E[x]²) by polars' own rolling standard deviation; null with fewer than half of the days."""
    return x.rolling_std(d, min_samples=max(2, d // 2))


def _cov(x: pl.Expr, y: pl.Expr, d: int) -> pl.Expr:
    return _mean(x * y, d) - _mean(x, d) * _mean(y, d)


def _corr(x: pl.Expr, y: pl.Expr, d: int) -> pl.Expr:
    """0/0 (a constant series) is undefined, not 0."""
    product = _cov(x, x, d).clip(0.0) * _cov(y, y, d).clip(0.0)
    return pl.when(product > TINY * TINY).then((_cov(x, y, d) / product.sqrt()).clip(-1.0, 1.0))


def feature_set(columns: Sequence[str]) -> list[Feature]:
    """The features that `columns` (of open, high, low, close, volume) allow, in their fixed order."""
    found = [*_close_features()]
    if {"open", "high", "low"} <= set(columns):
        found += _candle_features()
    if "volume" in columns:
        found += _volume_features()
    return found


def _close_features() -> Iterator[Feature]:
    def feature(name: str, formula: str, value: pl.Expr) -> Feature:
        return Feature(name=name, formula=formula, value=value)

    for d in (1, 2, 3, 5, 10, 20, 40, 60, 120):
        yield feature(f"return_{d}", f"c / c[{d}] - 1", _c() / _c().shift(d) - 1)
    yield feature("momentum_120_20", "c[20] / c[120] - 1", _c().shift(20) / _c().shift(120) - 1)
    for d in (5, 10, 20, 60):
        yield feature(f"mean_{d}", f"mean(c, {d}) / c", _mean(_c(), d) / _c())
    for d in (5, 10, 20, 60):
        yield feature(f"volatility_{d}", f"std(r, {d})", _std(_r(), d))
    yield feature("volatility_ratio", "std(r, 5) / std(r, 60)", _std(_r(), 5) / (_std(_r(), 60) + TINY))
    yield feature("downside_20", "√mean(min(r, 0)², 20)", _mean(_r().clip(upper_bound=0.0) ** 2, 20).sqrt())
    for d in (20, 60):
        slope = _cov(pl.col("log_close"), pl.col("age"), d) / _cov(pl.col("age"), pl.col("age"), d)
        yield feature(f"slope_{d}", f"slope of log c on time, {d} days", slope)
        fit = _corr(pl.col("log_close"), pl.col("age"), d)
        yield feature(f"trend_{d}", f"corr(log c, time, {d})", fit)
        residual = (
            pl.col("log_close") - _mean(pl.col("log_close"), d) - slope * (pl.col("age") - _mean(pl.col("age"), d))
        )
        yield feature(f"residual_{d}", f"residual of log c on time today, {d} days", residual)
    for d in (10, 20, 60):
        low, high = _c().rolling_min(d, min_samples=d // 2), _c().rolling_max(d, min_samples=d // 2)
        yield feature(
            f"position_{d}",
            f"(c - min(c, {d})) / (max(c, {d}) - min(c, {d}))",
            (_c() - low) / (high - low + TINY * _c()),
        )
    for d in (20, 120):
        yield feature(f"drawdown_{d}", f"c / max(c, {d}) - 1", _c() / _c().rolling_max(d, min_samples=d // 2) - 1)
    for d in (10, 20, 60):
        yield feature(f"up_share_{d}", f"mean(r > 0, {d})", _mean((_r() > 0).cast(pl.Float64), d))
    for d in (10, 20):
        yield feature(
            f"strength_{d}",
            f"sum(max(r, 0), {d}) / sum(|r|, {d})",
            _mean(_r().clip(0.0), d) / (_mean(_r().abs(), d) + TINY),
        )
    for d in (20, 60):
        third = _mean(_r() ** 3, d) - 3 * _mean(_r(), d) * _mean(_r() ** 2, d) + 2 * _mean(_r(), d) ** 3
        yield feature(f"skew_{d}", f"skewness(r, {d})", third / (_cov(_r(), _r(), d).clip(0.0) ** 1.5 + TINY))
    yield feature("largest_20", "max(r, 20)", _r().rolling_max(20, min_samples=10))
    yield feature("smallest_20", "min(r, 20)", _r().rolling_min(20, min_samples=10))
    yield feature("reversal_corr_20", "corr(r, r[1], 20)", _corr(_r(), _r().shift(1), 20))
    yield feature("beta", f"market beta: cov(r, m, {BETA_DAYS}) / var(m, {BETA_DAYS})", pl.col("beta"))
    residual = _r() - pl.col("beta") * pl.col("market")
    yield feature("idiosyncratic_60", "std(r - beta m, 60)", _std(residual, 60))
    for d in (5, 20):
        yield feature(f"residual_return_{d}", f"mean(r - beta m, {d})", _mean(residual, d))
    yield feature("market_corr_60", "corr(r, m, 60)", _corr(_r(), pl.col("market"), 60))


def _candle_features() -> Iterator[Feature]:
    o, h, low, c = pl.col("open"), pl.col("high"), pl.col("low"), _c()
    span = h - low
    for name, formula, value in (
        ("body", "(c - o) / o", (c - o) / o),
        ("range", "(h - l) / o", span / o),
        ("body_share", "(c - o) / (h - l)", pl.when(span > TINY * c).then((c - o) / span)),
        ("upper_shadow", "(h - max(o, c)) / o", (h - pl.max_horizontal(o, c)) / o),
        ("lower_shadow", "(min(o, c) - l) / o", (pl.min_horizontal(o, c) - low) / o),
        ("shift", "(2c - h - l) / (h - l)", pl.when(span > TINY * c).then((2 * c - h - low) / span)),
        ("gap", "o / c[1] - 1", o / c.shift(1) - 1),
        ("gap_20", "mean(o / c[1] - 1, 20)", _mean(o / c.shift(1) - 1, 20)),
        (
            "parkinson_20",
            "√(mean(log(h / l)², 20) / (4 log 2)) (Parkinson 1980)",
            (_mean((h / low).log() ** 2, 20) / (4 * np.log(2))).sqrt(),
        ),
        ("range_20", "mean((h - l) / c, 20)", _mean(span / c, 20)),
    ):
        yield Feature(name=name, formula=formula, value=value)
    for d in (20, 60):
        top, bottom = h.rolling_max(d, min_samples=d // 2), low.rolling_min(d, min_samples=d // 2)
        yield Feature(name=f"high_{d}", formula=f"max(h, {d}) / c", value=top / c)
        yield Feature(name=f"low_{d}", formula=f"min(l, {d}) / c", value=bottom / c)


def _volume_features() -> Iterator[Feature]:
    v, money = pl.col("volume"), pl.col("volume") * _c()
    log_volume = (v + 1).log()
    for d in (5, 20, 60):
        yield Feature(
            name=f"volume_{d}", formula=f"log((v + 1) / (mean(v, {d}) + 1))", value=log_volume - (_mean(v, d) + 1).log()
        )
    yield Feature(
        name="volume_std_20", formula="std(v, 20) / (mean(v, 20) + 1)", value=_std(v, 20) / (_mean(v, 20) + 1)
    )
    yield Feature(
        name="volume_trend",
        formula="log((mean(v, 5) + 1) / (mean(v, 60) + 1))",
        value=(_mean(v, 5) + 1).log() - (_mean(v, 60) + 1).log(),
    )
    yield Feature(name="money_20", formula="log(mean(c v, 20) + 1)", value=(_mean(money, 20) + 1).log())
    illiquid = pl.when(money > 0).then(_r().abs() / money)
    yield Feature(
        name="illiquidity_20",
        formula="log(mean(|r| / (c v), 20) + 1e-12) over days with volume (Amihud 2002)",
        value=(illiquid.rolling_mean(20, min_samples=10) + TINY).log(),
    )
    for d in (10, 20, 60):
        yield Feature(
            name=f"price_volume_{d}",
            formula=f"corr(log c, log(v + 1), {d})",
            value=_corr(pl.col("log_close"), log_volume, d),
        )
    for d in (10, 20):
        yield Feature(
            name=f"return_volume_{d}",
            formula=f"corr(r, change of log(v + 1), {d})",
            value=_corr(_r(), log_volume.diff(), d),
        )
    moved = _r().abs() * v
    yield Feature(
        name="weighted_move_20",
        formula="std(|r| v, 20) / (mean(|r| v, 20) + 1e-12)",
        value=_std(moved, 20) / (_mean(moved, 20) + TINY),
    )
    yield Feature(
        name="up_volume_20",
        formula="mean(v where r > 0, 20) / (mean(v, 20) + 1)",
        value=_mean(pl.when(_r() > 0).then(v).otherwise(0.0), 20) / (_mean(v, 20) + 1),
    )


def with_returns(frame: pl.DataFrame) -> pl.DataFrame:
    """Add return, log_close, age, market and beta to rows sorted by (code, day)."""
    past = (_c() / _c().shift(1) - 1).over("code")
    age = pl.int_range(pl.len()).over("code").cast(pl.Float64)
    return with_beta(frame.with_columns(past.alias("return"), _c().log().alias("log_close"), age.alias("age")))


def with_beta(frame: pl.DataFrame) -> pl.DataFrame:
    """Add market, the mean clipped return of the day's valid stocks, and beta, the slope of return on it over the days
    up to the row.
    """
    frame = frame.with_columns(market=pl.when("valid").then(_r().clip(-0.5, 0.5)).mean().over("day").fill_null(0.0))
    variance = _cov(pl.col("market"), pl.col("market"), BETA_DAYS)
    seen = _r().is_not_null().cast(pl.Int32).rolling_sum(BETA_DAYS, min_samples=1)
    paired = pl.when(_r().is_not_null()).then(pl.col("market"))
    slope = (_mean_any(_r() * paired) - _mean_any(_r()) * _mean_any(paired)) / (
        _mean_any(paired**2) - _mean_any(paired) ** 2
    )
    beta = (
        pl.when((seen >= BETA_MIN_DAYS) & (variance > TINY)).then(slope).fill_nan(None).fill_null(1.0).clip(-5.0, 5.0)
    )
    return frame.with_columns(beta=beta.over("code"))


def _mean_any(x: pl.Expr) -> pl.Expr:
    return x.rolling_mean(BETA_DAYS, min_samples=1)


def forward_returns(frame: pl.DataFrame, horizons: Sequence[int]) -> npt.NDArray[np.float32]:
    """close(t+1) → close(t+1+h), [row, horizon]: NaN unless both days lie in the listed span and t+1 is valid. A halted
    exit uses the filled close.
    """
    entry = pl.when(pl.col("valid").shift(-1)).then(_c().shift(-1))
    values = frame.select(
        (_c().shift(-1 - h) / entry - 1).over("code").cast(pl.Float32).fill_null(float("nan")).alias(str(h))
        for h in horizons
    )
    return np.ascontiguousarray(values.to_numpy(), dtype=np.float32)


def blocks(frame: pl.DataFrame, features: Sequence[Feature]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Raw values of `features`, a few at a time, each block with the number of its first."""
    for start in range(0, len(features), BLOCK):
        yield start, frame.select(f.value.over("code").alias(f.name) for f in features[start : start + BLOCK])
