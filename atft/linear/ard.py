"""Automatic relevance determination: a linear model whose coefficients have one prior variance a group, found by
maximizing the evidence (MacKay, Bayesian interpolation, 1992; Tipping, Sparse Bayesian learning, 2001).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve

from atft.linear.sums import Products, Sums

STEPS: Final = 30
FIRST_VARIANCE: Final = 1e-4  # of coefficients of columns with mean square 1
MIN_VARIANCE: Final = 1e-9
CONSTANT: Final = 1e-20  # mean square, against the largest, of a column that is constant but for rounding


@dataclass(frozen=True, kw_only=True, slots=True)
class Ard:
    """Coefficients, the prior variance of each group's for columns of mean square 1, and each horizon's noise."""

    coefficients: Products
    variances: Float[np.ndarray, " group"]
    noise: Float[np.ndarray, " horizon"]


def fit_ard(sums: Sums, group_size: int, horizons: tuple[int, ...], beat: Callable[[int, int], None]) -> Ard:
    """The posterior mean of the coefficients after STEPS steps of expectation maximization. `group_size` consecutive
    columns share a variance, and all horizons do. The noise of a horizon of h days is h times the mean squared
    residual, since h labels in a row overlap. `beat` is called with the steps done and their number.
    """
    squares = np.diag(sums.gram) / sums.samples
    scale = np.sqrt(np.maximum(squares, max(CONSTANT * squares.max(), np.finfo(np.float64).tiny)))
    gram = sums.gram / (scale[:, None] * scale)
    products = sums.products / scale[:, None]
    variances = np.full(len(gram) // group_size, FIRST_VARIANCE)
    noise = sums.squares / sums.samples * horizons
    coefficients = np.zeros_like(products)
    for step in range(STEPS):
        second = np.zeros(len(gram))  # moments of the coefficients, mean over horizons
        residual = np.empty(len(horizons))
        for h in range(len(horizons)):
            precision = gram / noise[h]
            precision[np.diag_indices_from(precision)] += np.repeat(1.0 / variances, group_size)
            factor = cho_factor(precision, lower=True)
            mean = cho_solve(factor, products[:, h] / noise[h])
            posterior = cho_solve(factor, np.eye(len(gram)))
            coefficients[:, h] = mean
            second += (mean**2 + np.diag(posterior)) / len(horizons)
            residual[h] = sums.squares[h] - 2.0 * mean @ products[:, h] + mean @ gram @ mean
        variances = np.maximum(second.reshape(-1, group_size).mean(axis=1), MIN_VARIANCE)
        noise = np.maximum(residual / sums.samples, np.finfo(np.float64).tiny) * horizons
        beat(step + 1, STEPS)
    return Ard(coefficients=coefficients / scale[:, None], variances=variances, noise=noise)
