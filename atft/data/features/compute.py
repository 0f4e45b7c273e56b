"""Computes features, targets and market beta of a price panel. Features use past data only, and other stocks' data of
the same day only. The formulas are in `formulas.py`.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from atft.data.features.formulas import (
    BETA_DAYS,
    BETA_MIN_DAYS,
    MIN_SECTOR_NAMES,
    C,
    Feature,
    R,
    candle_features,
    close_features,
    rank_features,
    sector_features,
    volume_features,
)

__all__ = ["BETA_DAYS", "BETA_MIN_DAYS", "BLOCK", "Feature", "blocks", "feature_set", "forward_returns", "with_beta",
           "with_returns"]  # fmt: skip

MAX_MOVE = 0.5  # returns are clipped to ±50 % in means over stocks, so that a missed split does not move the market
NO_VARIANCE = 1e-12
BLOCK = 8  # features computed at once: bounds memory at 8 columns of float64


def feature_set(columns: Sequence[str]) -> list[Feature]:
    """The features that `columns` (of open, high, low, close, volume, sector) suffice for, in a fixed order."""
    found = [*close_features()]
    if {"open", "high", "low"} <= set(columns):
        found += candle_features()
    if "volume" in columns:
        found += volume_features()
    found += rank_features(volume="volume" in columns)
    if "sector" in columns:
        found += sector_features()
    return found


def with_returns(frame: pl.DataFrame) -> pl.DataFrame:
    """Add return, log_close (log of close over the first close), age, market and beta to rows sorted by (code, day)."""
    past = (C / C.shift(1) - 1).over("code")
    age = pl.int_range(pl.len()).over("code").cast(pl.Float64)
    log_close = (C / C.first()).log().over("code")
    return with_beta(frame.with_columns(past.alias("return"), log_close.alias("log_close"), age.alias("age")))


def with_beta(frame: pl.DataFrame) -> pl.DataFrame:
    """Add market, the mean clipped return of the day's valid stocks (0 without any), and beta, the slope of return on
    it over the last 120 days with a return: 1 with fewer than 20 of them or a market without variance.
    """
    clipped = R.clip(-MAX_MOVE, MAX_MOVE)
    frame = frame.with_columns(market=pl.when("valid").then(clipped).mean().over("day").fill_null(0.0))
    paired = pl.when(R.is_not_null()).then(pl.col("market"))
    past = frame.select(  # separately: within one expression polars would compute each several times
        expression.over("code").alias(name)
        for name, expression in {
            "seen": R.is_not_null().cast(pl.Int32).rolling_sum(BETA_DAYS, min_samples=1),
            "y": _mean_any(R),
            "x": _mean_any(paired),
            "xx": _mean_any(paired**2),
            "xy": _mean_any(R * paired),
        }.items()
    )
    variance = pl.col("xx") - pl.col("x") ** 2
    slope = (pl.col("xy") - pl.col("y") * pl.col("x")) / variance
    known = (pl.col("seen") >= BETA_MIN_DAYS) & (variance > NO_VARIANCE)
    return frame.with_columns(past.select(beta=pl.when(known).then(slope).otherwise(1.0).clip(-5.0, 5.0)))


def _mean_any(x: pl.Expr) -> pl.Expr:
    return x.rolling_mean(BETA_DAYS, min_samples=1)


def forward_returns(frame: pl.DataFrame, horizons: Sequence[int]) -> npt.NDArray[np.float32]:
    """Targets close(t+1) → close(t+1+h), [row, horizon]; NaN unless both days lie in the listed span and t+1 is valid.
    A halted exit uses the filled close.
    """
    entry = pl.when(pl.col("valid").shift(-1)).then(C.shift(-1))
    values = frame.select(
        (C.shift(-1 - h) / entry - 1).over("code").cast(pl.Float32).fill_null(float("nan")).alias(str(h))
        for h in horizons
    )
    return np.ascontiguousarray(values.to_numpy(), dtype=np.float32)


def blocks(frame: pl.DataFrame, features: Sequence[Feature]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Raw values of `features`, BLOCK at a time, each block with the index of its first. `frame` is that of
    `with_returns`, with a column sector (numbers, negative for none) if a feature needs it.
    """
    for start in range(0, len(features), BLOCK):
        part = features[start : start + BLOCK]
        block = frame.select(f.value.over("code").alias(f.name) for f in part)
        ranked = [f.name for f in part if f.across == "rank"]
        relative = [f.name for f in part if f.across == "sector"]
        if ranked:
            block = block.with_columns(frame["day"], frame["valid"])
            block = block.with_columns(_rank(pl.col(n)).over("day") for n in ranked).drop("day", "valid")
        if relative:
            block = block.with_columns(frame["day"], frame["valid"], frame["sector"])
            block = block.with_columns(_against_sector(pl.col(n)) for n in relative).drop("day", "valid", "sector")
        yield start, block


def _rank(x: pl.Expr) -> pl.Expr:
    known = pl.when(pl.col("valid") & x.is_finite()).then(x)
    return (known.rank("average") - 0.5) / known.count()


def _against_sector(x: pl.Expr) -> pl.Expr:
    known = pl.when(pl.col("valid") & x.is_finite()).then(x.clip(-MAX_MOVE, MAX_MOVE))
    enough = (pl.col("sector") >= 0) & (known.count().over("day", "sector") >= MIN_SECTOR_NAMES)
    return x - pl.when(enough).then(known.mean().over("day", "sector")).otherwise(known.mean().over("day"))
