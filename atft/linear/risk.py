"""A trailing risk model: volatilities and the correlations of residual returns, from returns up to a day only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Bool, Float, Int

from atft.data.cache.reader import Cache

WINDOW: Final = 250  # days that correlations are estimated on
REFRESH_DAYS: Final = 20
MIN_DAYS: Final = 30
HALF_LIFE: Final = 60.0  # of variances, in days
PRIOR_DAYS: Final = 20.0  # weight of the panel's typical variance in each stock's
MAX_RATIO: Final = 25.0  # of a day's square to the typical variance
CLIP: Final = 4.0
MEDIAN_SQUARE: Final = 0.4549  # median of a squared standard normal variable
MIN_CORRELATION: Final = 0.25
STANDARD_ERRORS: Final = 3.2  # of a correlation of independent returns
MAX_PEERS: Final = 20
MIN_EIGENVALUE: Final = 0.25
MAX_DENSE_CODES: Final = 1000  # with more, correlations are those of factors: a day's Cholesky factor costs n³
NUM_FACTORS: Final = 20
MIN_IDIOSYNCRATIC: Final = 0.2
Whiten = Callable[[Float[np.ndarray, "stock column"]], Float[np.ndarray, "stock column"]]
Returns = Float[np.ndarray, "day code"]
Codes = Int[np.ndarray, " stock"]


@dataclass(frozen=True, slots=True)
class Correlated:
    """A covariance of volatility-scaled residual returns with every correlation that is significant."""

    covariance: Float[np.ndarray, "code code"]

    def whitener(self, codes: Codes) -> Whiten:
        """Maps values x of these codes to Wx with W Σ W' = I, for their covariance Σ."""
        factor = np.linalg.cholesky(self.covariance[np.ix_(codes, codes)])
        return lambda values: np.asarray(scipy.linalg.solve_triangular(factor, values, lower=True))


@dataclass(frozen=True, slots=True)
class Factors:
    """A covariance of volatility-scaled residual returns that is that of factors and a diagonal."""

    loadings: Float[np.ndarray, "code factor"]
    idiosyncratic: Float[np.ndarray, " code"]

    def whitener(self, codes: Codes) -> Whiten:
        """As that of Correlated."""
        scale = 1.0 / np.sqrt(self.idiosyncratic[codes])[:, None]
        loadings = self.loadings[codes] * scale
        # With L = U S V', (I + LL')^-1/2 is the identity but for the span of U, where it shrinks (Woodbury's identity).
        values, vectors = np.linalg.eigh(loadings.T @ loadings)
        kept = values > 1e-9
        directions = loadings @ vectors[:, kept] / np.sqrt(values[kept])
        shrink = (1.0 / np.sqrt(1.0 + values[kept]) - 1.0)[:, None]

        def whiten(given: Float[np.ndarray, "stock column"]) -> Float[np.ndarray, "stock column"]:
            scaled = given * scale
            return np.asarray(scaled + directions @ (shrink * (directions.T @ scaled)))

        return whiten


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskModel:
    """The model that holds from one refresh day to the next. `peers` has, in a code's row, the signs of its largest
    correlations.
    """

    peers: scipy.sparse.csr_array
    covariance: Correlated | Factors


class TrailingRisk:
    """Volatility [day, code] of residual returns, which are those less their day's mean, and a RiskModel for each day;
    each uses returns up to the day only.
    """

    def __init__(self, cache: Cache) -> None:
        known = cache.valid & np.isfinite(cache.returns)
        returns = np.full((len(cache.days), len(cache.codes)), np.nan)
        returns[cache.day_index[known], cache.code_index[known]] = cache.returns[known]
        count = np.isfinite(returns).sum(axis=1)
        self.market: Float[np.ndarray, " day"] = np.nan_to_num(returns).sum(axis=1) / np.maximum(count, 1)
        residual = returns - self.market[:, None]
        self.volatility = _volatility(residual)
        scaled = np.clip(residual / self.volatility, -CLIP, CLIP)
        self._known = np.isfinite(scaled)
        self._scaled = np.nan_to_num(scaled).astype(np.float32)
        self._held: tuple[int, RiskModel | None] = (-1, None)

    def model(self, day: int) -> RiskModel | None:
        """The model that holds on `day`, of days up to its last refresh; None while there are too few. The newest only
        is kept: ask for days in order.
        """
        refreshed = day - day % REFRESH_DAYS
        if self._held[0] != refreshed:
            days = slice(max(0, refreshed + 1 - WINDOW), refreshed + 1)
            enough = days.stop - days.start >= MIN_DAYS
            self._held = refreshed, _fit(self._scaled[days], self._known[days]) if enough else None
        return self._held[1]


def _volatility(residual: Returns) -> Returns:
    """Square roots of exponentially weighted means of squares, each limited, and joined to the panel's typical one."""
    decay = 0.5 ** (1.0 / HALF_LIFE)
    total, weight = np.zeros(residual.shape[1]), np.zeros(residual.shape[1])
    typical, num_days = 0.0, 0
    found = np.empty_like(residual)
    for day, values in enumerate(residual):
        squares = values**2
        known = np.isfinite(squares)
        if known.any():
            num_days += 1
            typical += (float(np.median(squares[known])) / MEDIAN_SQUARE - typical) / num_days
        total, weight = decay * total, decay * weight
        total[known] += np.minimum(squares[known], MAX_RATIO * typical)
        weight[known] += 1.0
        found[day] = np.sqrt((total + PRIOR_DAYS * typical) / (weight + PRIOR_DAYS))
    return np.asarray(np.maximum(found, 1e-9))


def _fit(scaled: Float[np.ndarray, "day code"], known: Bool[np.ndarray, "day code"]) -> RiskModel:
    present = known.astype(np.float32)
    together = present.T @ present
    squares = (scaled**2).T @ present
    correlation = scaled.T @ scaled / np.sqrt(np.maximum(squares * squares.T, 1e-12))
    limit = np.maximum(MIN_CORRELATION, STANDARD_ERRORS / np.sqrt(np.maximum(together, 1.0)))
    correlation[(np.abs(correlation) < limit) | (together < MIN_DAYS)] = 0.0
    np.fill_diagonal(correlation, 0.0)
    peers = _strongest(correlation)
    if len(correlation) <= MAX_DENSE_CODES:
        values, vectors = np.linalg.eigh(correlation.astype(np.float64) + np.eye(len(correlation)))
        covariance = (vectors * np.maximum(values, MIN_EIGENVALUE)) @ vectors.T
        return RiskModel(peers=peers, covariance=Correlated(covariance))
    # The leading components of the days' cross-products, which are fewer than the codes.
    values, vectors = np.linalg.eigh((scaled @ scaled.T).astype(np.float64) / len(scaled))
    vectors = vectors[:, -NUM_FACTORS:][:, values[-NUM_FACTORS:] > 1e-9]
    loadings = scaled.T.astype(np.float64) @ vectors / np.sqrt(len(scaled))
    idiosyncratic = np.maximum(1.0 - (loadings**2).sum(axis=1), MIN_IDIOSYNCRATIC)
    return RiskModel(peers=peers, covariance=Factors(loadings, idiosyncratic))


def _strongest(correlation: Float[np.ndarray, "code code"]) -> scipy.sparse.csr_array:
    """The signs of each row's MAX_PEERS largest absolute correlations; 0 is none."""
    rows, columns, signs = [], [], []
    for row, values in enumerate(correlation):
        found = np.flatnonzero(values)
        if len(found) > MAX_PEERS:
            found = np.sort(found[np.argsort(-np.abs(values[found]), kind="stable")[:MAX_PEERS]])
        rows.append(np.full(len(found), row))
        columns.append(found)
        signs.append(np.sign(values[found]).astype(np.float64))
    where = np.concatenate(rows), np.concatenate(columns)
    return scipy.sparse.csr_array((np.concatenate(signs), where), shape=correlation.shape)
