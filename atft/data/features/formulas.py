"""Every built feature with its formula, in the spirit of Alpha158 (microsoft/qlib): candles, returns, moving averages,
oscillators, trends, ranges, volatility, volume, and cross-sectional ranks.

Notation: o h l c v are the day's prices and volume, r the daily return, m the market's return, x[k] the value k days
before, mean/std/min/max(x, d) over the last d days, ewm(x, n) the exponential mean with α = 2/(n+1). `rolling.py` says
how many days must be known. Halted days repeat the last close with volume 0, so that their return is 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from atft.data.features.rolling import corr, cov, ewm, largest, mean, smallest, std, varies

BETA_DAYS, BETA_MIN_DAYS = 120, 20
YEAR = 252
WILDER_DAYS = 14
MACD_FAST, MACD_SLOW, MACD_SIGNAL = 12, 26, 9
MIN_SECTOR_NAMES = 5  # a mean of fewer is mostly the stock itself

C, R, V = pl.col("close"), pl.col("return"), pl.col("volume")
O, H, L = pl.col("open"), pl.col("high"), pl.col("low")  # noqa: E741 - open, high, low
LOG_C, AGE, MARKET, BETA = pl.col("log_close"), pl.col("age"), pl.col("market"), pl.col("beta")


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A named formula: `value` looks back over one stock's rows, `across` compares it with the day's valid stocks."""

    name: str
    formula: str
    value: pl.Expr
    across: Literal["rank", "sector"] | None = None


def _feature(name: str, formula: str, value: pl.Expr) -> Feature:
    return Feature(name=name, formula=formula, value=value)


def close_features() -> Iterator[Feature]:
    for d in (1, 2, 3, 5, 10, 20, 40, 60, 120):
        yield _feature(f"return_{d}", f"c / c[{d}] - 1", C / C.shift(d) - 1)
    yield _feature("momentum_120_20", "c[20] / c[120] - 1", C.shift(20) / C.shift(120) - 1)
    for d in (5, 10, 20, 60):
        yield _feature(f"mean_{d}", f"mean(c, {d}) / c", mean(C, d) / C)
    for d in (5, 10, 20, 60):
        yield _feature(f"volatility_{d}", f"std(r, {d})", std(R, d))
    ratio = pl.when(varies(R, 60)).then(std(R, 5) / std(R, 60))
    yield _feature("volatility_ratio", "std(r, 5) / std(r, 60)", ratio)
    yield _feature("downside_20", "√mean(min(r, 0)², 20)", mean(R.clip(upper_bound=0.0) ** 2, 20).clip(0.0).sqrt())
    yield from _trends()
    for d in (10, 20, 60):
        low, high = smallest(C, d), largest(C, d)
        yield _feature(
            f"position_{d}",
            f"(c - min(c, {d})) / (max(c, {d}) - min(c, {d}))",
            pl.when(high > low).then((C - low) / (high - low)),
        )
    for d in (20, 120):
        yield _feature(f"drawdown_{d}", f"c / max(c, {d}) - 1", C / largest(C, d) - 1)
    yield _feature("year_high", f"distance to the 52-week high: c / max(c, {YEAR}) - 1", C / largest(C, YEAR) - 1)
    yield _feature("year_low", f"distance to the 52-week low: c / min(c, {YEAR}) - 1", C / smallest(C, YEAR) - 1)
    for d in (10, 20, 60):
        yield _feature(f"up_share_{d}", f"mean(r > 0, {d})", mean((R > 0).cast(pl.Float64), d))
    for d in (10, 20):
        strength = mean(R.clip(0.0), d) / mean(R.abs(), d)
        yield _feature(
            f"strength_{d}",
            f"mean(max(r, 0), {d}) / mean(|r|, {d})",
            pl.when(largest(R.abs(), d) > 0).then(strength.clip(0.0, 1.0)),
        )
    for d in (20, 60):
        third = mean(R**3, d) - 3 * mean(R, d) * mean(R**2, d) + 2 * mean(R, d) ** 3
        variance = cov(R, R, d)
        yield _feature(
            f"skew_{d}",
            f"E[(r - E r)³] / E[(r - E r)²]^1.5 over {d} days",
            pl.when(varies(R, d) & (variance > 0)).then(third / variance**1.5),
        )
    yield _feature("largest_20", "max(r, 20)", largest(R, 20))
    yield _feature("smallest_20", "min(r, 20)", smallest(R, 20))
    yield _feature("reversal_corr_20", "corr(r, r[1], 20)", corr(R, R.shift(1), 20))
    yield from _market_features()
    yield from _averages()


def _trends() -> Iterator[Feature]:
    for d in (20, 60):
        slope = cov(LOG_C, AGE, d) / cov(AGE, AGE, d)
        yield _feature(f"slope_{d}", f"least-squares slope of log c on the day number, {d} days", slope)
        yield _feature(f"trend_{d}", f"corr(log c, day number, {d})", corr(LOG_C, AGE, d))
        residual = LOG_C - mean(LOG_C, d) - slope * (AGE - mean(AGE, d))
        yield _feature(f"residual_{d}", f"today's residual of log c on the day number, {d} days", residual)


def _market_features() -> Iterator[Feature]:
    yield _feature(
        "beta",
        f"market beta: cov(r, m) / var(m) over {BETA_DAYS} days, clipped to ±5; 1 with fewer than {BETA_MIN_DAYS} days",
        BETA,
    )
    residual = R - BETA * MARKET
    yield _feature("idiosyncratic_60", "std(r - beta m, 60), each day with its own beta", std(residual, 60))
    for d in (5, 20):
        yield _feature(f"residual_return_{d}", f"mean(r - beta m, {d}), each day with its own beta", mean(residual, d))
    yield _feature("market_corr_60", "corr(r, m, 60)", corr(R, MARKET, 60))


def _averages() -> Iterator[Feature]:
    for n in (MACD_FAST, MACD_SLOW, 50):
        yield _feature(f"ema_gap_{n}", f"c / ewm(c, {n}) - 1 with at least {n} days", C / _span(C, n, n) - 1)
    line = _span(C, MACD_FAST, MACD_FAST) - _span(C, MACD_SLOW, MACD_SLOW)
    signal = _span(line, MACD_SIGNAL, MACD_SIGNAL)
    text = f"(ewm(c, {MACD_FAST}) - ewm(c, {MACD_SLOW}))"
    yield _feature("macd", f"{text} / c with at least {MACD_SLOW} days", line / C)
    yield _feature("macd_signal", f"ewm(macd line, {MACD_SIGNAL}) / c with at least {MACD_SIGNAL} values", signal / C)
    yield _feature("macd_histogram", "(macd line - its signal) / c", (line - signal) / C)
    change, alpha = C - C.shift(1), 1 / WILDER_DAYS
    up, down = ewm(change.clip(0.0), alpha, WILDER_DAYS), ewm((-change).clip(0.0), alpha, WILDER_DAYS)
    yield _feature(
        f"rsi_{WILDER_DAYS}",
        f"100 U / (U + D), the exponential means with α = 1/{WILDER_DAYS} of max(c - c[1], 0) and max(c[1] - c, 0), "
        f"at least {WILDER_DAYS} days (Wilder 1978)",
        pl.when(up + down > 0).then(100 * up / (up + down)),
    )


def _span(x: pl.Expr, n: int, min_samples: int) -> pl.Expr:
    return ewm(x, 2 / (n + 1), min_samples)


def candle_features() -> Iterator[Feature]:
    span = H - L
    yield _feature("body", "(c - o) / o", (C - O) / O)
    yield _feature("range", "(h - l) / o", span / O)
    yield _feature("body_share", "(c - o) / (h - l)", pl.when(span > 0).then((C - O) / span))
    yield _feature("upper_shadow", "(h - max(o, c)) / o", (H - pl.max_horizontal(O, C)) / O)
    yield _feature("lower_shadow", "(min(o, c) - l) / o", (pl.min_horizontal(O, C) - L) / O)
    yield _feature("shift", "(2c - h - l) / (h - l)", pl.when(span > 0).then((2 * C - H - L) / span))
    yield _feature("gap", "o / c[1] - 1", O / C.shift(1) - 1)
    yield _feature("gap_20", "mean(o / c[1] - 1, 20)", mean(O / C.shift(1) - 1, 20))
    yield _feature(
        "parkinson_20",
        "√(mean(log(h / l)², 20) / (4 log 2)) (Parkinson 1980)",
        (mean((H / L).log() ** 2, 20).clip(0.0) / (4 * np.log(2))).sqrt(),
    )
    yield _feature("range_20", "mean((h - l) / c, 20)", mean(span / C, 20))
    for d in (20, 60):
        yield _feature(f"high_{d}", f"max(h, {d}) / c", largest(H, d) / C)
        yield _feature(f"low_{d}", f"min(l, {d}) / c", smallest(L, d) / C)


def volume_features() -> Iterator[Feature]:
    money, log_volume = V * C, (V + 1).log()
    for d in (5, 20, 60):
        yield _feature(f"volume_{d}", f"log((v + 1) / (mean(v, {d}) + 1))", log_volume - (mean(V, d) + 1).log())
    yield _feature("volume_std_20", "std(v, 20) / (mean(v, 20) + 1)", std(V, 20) / (mean(V, 20) + 1))
    yield _feature(
        "volume_trend",
        "log((mean(v, 5) + 1) / (mean(v, 60) + 1))",
        (mean(V, 5) + 1).log() - (mean(V, 60) + 1).log(),
    )
    yield _feature("money_20", "log(mean(c v, 20) + 1)", (mean(money, 20) + 1).log())
    illiquid = mean(pl.when(money > 0).then(R.abs() / money), 20)
    yield _feature(
        "illiquidity_20",
        "log mean(|r| / (c v), 20) over days with volume (Amihud 2002)",
        pl.when(illiquid > 0).then(illiquid.log()),
    )
    for d in (10, 20, 60):
        yield _feature(f"price_volume_{d}", f"corr(log c, log(v + 1), {d})", corr(LOG_C, log_volume, d))
    for d in (10, 20):
        yield _feature(f"return_volume_{d}", f"corr(r, change of log(v + 1), {d})", corr(R, log_volume.diff(), d))
    moved = R.abs() * V
    yield _feature(
        "weighted_move_20",
        "std(|r| v, 20) / mean(|r| v, 20)",
        pl.when(largest(moved, 20) > 0).then(std(moved, 20) / mean(moved, 20)),
    )
    yield _feature(
        "up_volume_20",
        "mean(v where r > 0, else 0, 20) / (mean(v, 20) + 1)",
        mean(pl.when(R > 0).then(V).otherwise(0.0), 20) / (mean(V, 20) + 1),
    )


def rank_features(*, volume: bool) -> Iterator[Feature]:
    """(average rank - ½) / n among the n valid stocks of the day that have the value; a halted stock has no rank."""
    values = {"return_5": C / C.shift(5) - 1, "return_20": C / C.shift(20) - 1, "volatility_20": std(R, 20)}
    if volume:
        values |= {"volume_20": (V + 1).log() - (mean(V, 20) + 1).log(), "money_20": (mean(V * C, 20) + 1).log()}
    for name, value in values.items():
        formula = f"(rank of {name} - ½) / n among the day's n valid stocks"
        yield Feature(name=f"rank_{name}", formula=formula, value=value, across="rank")


def sector_features() -> Iterator[Feature]:
    for d in (1, 5, 20):
        yield Feature(
            name=f"sector_return_{d}",
            formula=f"c / c[{d}] - 1 minus its mean (each clipped to ±50 %) over the day's valid stocks of the sector; "
            f"over all valid stocks where the sector is unknown or has fewer than {MIN_SECTOR_NAMES} of them",
            value=C / C.shift(d) - 1,
            across="sector",
        )
