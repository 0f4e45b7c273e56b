"""All metrics of a split (`evaluate`), and those of the long-short portfolio formed by the scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from atft.metrics import drift, inference, rank
from atft.spec.metric import (
    HIT_RATE,
    IC,
    IC_T,
    ICIR,
    LONG_SHORT,
    MAX_DRAWDOWN,
    NUM_DAYS,
    NUM_UNDEFINED_DAYS,
    PRED_STD_RATIO,
    PSI,
    RANK_IC,
    RANK_IC_T,
    RANK_ICIR,
    SHARPE_ANN,
    SHARPE_DAILY,
    SHARPE_NET_ANN,
    SPREAD,
    TURNOVER,
    with_horizon,
)
from atft.spec.training import EvaluationSpec

Values = Float[np.ndarray, " sample"]
Ints = Int[np.ndarray, " sample"]
Daily = Float[np.ndarray, " day"]
YEAR = 252
SUSPICIOUS_RANK_IC = 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Metrics of one split.

    `values`: '{metric}@{h}d' for each horizon and '{metric}', the mean over horizons, None if any horizon's is
    undefined.
    `daily`: (name, horizon) → one value or None for each of `dates`, for ic, rank_ic and long_short.
    `lags`: the Newey-West lag of `ic_t@{h}d`. `degenerate`: the horizons with collapsed scores. `warnings`: log
    messages.
    """

    values: dict[str, float | None]
    daily: dict[tuple[str, int], list[float | None]]
    lags: dict[int, int]
    degenerate: tuple[int, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LongShort:
    """Portfolio: `returns` of each day, NaN where undefined; `weights` by day and stock: 1/k in the top, -1/k
    in the bottom, else 0.
    """

    returns: Daily
    weights: Float[np.ndarray, "day code"]


def evaluate(
    *,
    scores: Float[np.ndarray, "sample horizon"],
    targets: Float[np.ndarray, "sample horizon"],
    day: Ints,
    code: Ints,
    dates: list[str],
    horizons: Sequence[int],
    min_names: int,
    evaluation: EvaluationSpec,
    reference: Float[np.ndarray, "other horizon"] | None = None,
) -> Evaluation:
    """Compute all metrics of ranked samples.

    `day` indexes `dates`, consecutive trading days; `targets` are raw h-day returns, NaN where unknown. `psi` compares
    the scores with `reference` (for instance those of the training days), or the second half of the days with the
    first. Raises ValueError for a score that is not finite.
    """
    broken = ~np.isfinite(scores).all(axis=1)
    if broken.any():
        raise ValueError(
            f"{int(broken.sum())} of {len(scores)} scores are not finite, first on {dates[int(day[broken].min())]}"
        )
    values: dict[str, float | None] = {}
    daily: dict[tuple[str, int], list[float | None]] = {}
    lags: dict[int, int] = {}
    collapsed: list[int] = []
    warnings: list[str] = []
    for column, horizon in enumerate(horizons):
        known = np.isfinite(targets[:, column])
        one = _horizon(
            scores[known, column].astype(np.float64),
            targets[known, column].astype(np.float64),
            day[known],
            code[known],
            num_days=len(dates),
            horizon=horizon,
            min_names=min_names,
            evaluation=evaluation,
        )
        base, against = (
            _halves(scores[:, column], day, len(dates))
            if reference is None
            else (reference[:, column], scores[:, column])
        )
        one.values[PSI] = drift.psi(base, against)
        values.update({with_horizon(name, horizon): value for name, value in one.values.items()})
        daily.update({(name, horizon): _nullable(series) for name, series in one.daily.items()})
        lags[horizon] = one.lag
        if one.degenerate:
            collapsed.append(horizon)
        warnings += _warnings(one.values, horizon)
    for name in one.values:
        each = [values[with_horizon(name, horizon)] for horizon in horizons]
        known_values = [value for value in each if value is not None]
        values[name] = float(np.mean(known_values)) if len(known_values) == len(each) else None
    return Evaluation(values=values, daily=daily, lags=lags, degenerate=tuple(collapsed), warnings=tuple(warnings))


def long_short(
    scores: Values, targets: Values, day: Ints, code: Ints, *, num_days: int, min_names: int, quantile: float
) -> LongShort:
    """Equal-weight portfolio, each day long the k = max(1, ⌊n·quantile⌋) highest scores and short the k lowest.

    Ties are broken by code. Undefined (NaN, weights 0) on days with fewer than `min_names` samples or constant scores.
    `code` is 0 … C-1.
    """
    order = np.lexsort((code, scores, day))
    sorted_day = day[order]
    count = np.bincount(day, minlength=num_days)
    start = np.cumsum(count) - count
    position = np.arange(len(day)) - start[sorted_day]
    size = np.maximum(1, np.floor(count * quantile + 1e-9)).astype(np.int64)
    defined = count >= max(min_names, 2)
    filled = np.flatnonzero(count)
    defined[filled] &= scores[order][start[filled]] < scores[order][start[filled] + count[filled] - 1]
    weight = (position >= (count - size)[sorted_day]).astype(np.float64) - (position < size[sorted_day])
    weight *= defined[sorted_day] / size[sorted_day]
    returns = np.where(defined, np.bincount(sorted_day, weight * targets[order], num_days), np.nan)
    weights = np.zeros((num_days, int(code.max()) + 1 if len(code) else 0))
    weights[sorted_day, code[order]] = weight
    return LongShort(returns=returns, weights=weights)


def turnover(weights: Float[np.ndarray, "day code"]) -> Daily:
    """Turnover `½ Σ |w_d - w_{d-1}|`, starting from an empty portfolio; 2 replaces both sides completely."""
    traded: Daily = 0.5 * np.abs(np.diff(weights, axis=0, prepend=0.0)).sum(axis=1)
    return traded


def sharpe(returns: Daily, periods_per_year: float) -> float | None:
    """Sharpe ratio `mean/std · √periods` (ddof 1); None below two returns or without variation."""
    ratio = rank.average(returns).ratio
    return None if ratio is None else ratio * float(np.sqrt(periods_per_year))


def max_drawdown(returns: Daily) -> float | None:
    """Maximum drawdown of compounded wealth (starting at 1) from its peak, ≤ 0; None without returns."""
    if len(returns) == 0:
        return None
    wealth = np.cumprod(np.r_[1.0, np.maximum(1.0 + returns, 0.0)])  # a loss of everything stays at 0
    return float((wealth / np.maximum.accumulate(wealth) - 1).min())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Horizon:
    values: dict[str, float | None]
    daily: dict[str, Daily]
    lag: int
    degenerate: bool


def _horizon(
    scores: Values,
    targets: Values,
    day: Ints,
    code: Ints,
    *,
    num_days: int,
    horizon: int,
    min_names: int,
    evaluation: EvaluationSpec,
) -> _Horizon:
    ic = rank.daily_ic(scores, targets, day, num_days=num_days, min_names=min_names)
    rank_ic = rank.daily_rank_ic(scores, targets, day, num_days=num_days, min_names=min_names)
    portfolio = long_short(
        scores,
        targets,
        day,
        np.unique(code, return_inverse=True)[1].reshape(-1),
        num_days=num_days,
        min_names=min_names,
        quantile=evaluation.quantile,
    )
    std_ratio = drift.daily_std_ratio(scores, targets, day, num_days=num_days)
    unique_share = drift.daily_unique_share(scores, day, num_days=num_days)
    plain, ranked = rank.average(ic), rank.average(rank_ic)
    values: dict[str, float | None] = {
        IC: plain.mean,
        RANK_IC: ranked.mean,
        ICIR: plain.ratio,
        RANK_ICIR: ranked.ratio,
        IC_T: inference.newey_west_t(ic, horizon),
        RANK_IC_T: inference.newey_west_t(rank_ic, horizon),
        HIT_RATE: ranked.share_positive,
        **_portfolio_values(portfolio, horizon, evaluation.cost_bps),
        PRED_STD_RATIO: rank.average(std_ratio).mean,
        NUM_DAYS: float(ranked.num_days),
        NUM_UNDEFINED_DAYS: float(ranked.num_undefined_days),
    }
    return _Horizon(
        values=values,
        daily={IC: ic, RANK_IC: rank_ic, LONG_SHORT: portfolio.returns},
        lag=inference.newey_west_lag(plain.num_days, horizon),
        degenerate=drift.degenerate(unique_share, std_ratio),
    )


def _portfolio_values(portfolio: LongShort, horizon: int, cost_bps: float) -> dict[str, float | None]:
    """Metrics of the portfolio rebalanced every `horizon` days from the first on, so that no returns overlap."""
    rebalanced = np.zeros(len(portfolio.returns), dtype=bool)
    rebalanced[::horizon] = True
    rebalanced &= np.isfinite(portfolio.returns)
    gross = portfolio.returns[rebalanced]
    traded = turnover(portfolio.weights[rebalanced])
    net = gross - traded * cost_bps / 1e4
    return {
        SHARPE_DAILY: sharpe(gross, 1 / horizon),
        SHARPE_ANN: sharpe(gross, YEAR / horizon),
        SHARPE_NET_ANN: sharpe(net, YEAR / horizon),
        TURNOVER: float(traded[1:].mean())
        if len(traded) > 1
        else None,  # the first purchase has a cost, but is not turnover
        MAX_DRAWDOWN: max_drawdown(gross),
        SPREAD: rank.average(portfolio.returns).mean,
    }


def _halves(scores: Values, day: Ints, num_days: int) -> tuple[Float[np.ndarray, " early"], Float[np.ndarray, " late"]]:
    early: Bool[np.ndarray, " sample"] = day < num_days // 2
    return scores[early], scores[~early]


def _nullable(series: Daily) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in series]


def _warnings(values: dict[str, float | None], horizon: int) -> list[str]:
    index, rank_ic = values[PSI], values[RANK_IC]
    found = []
    if index is not None and index > drift.PSI_WARNING:
        found.append(f"scores of {horizon} days drift: psi {index:.2f} is above {drift.PSI_WARNING}")
    if rank_ic is not None and rank_ic > SUSPICIOUS_RANK_IC:
        found.append(f"RankIC of {horizon} days is {rank_ic:.3f}: above {SUSPICIOUS_RANK_IC} look for a leak")
    return found
