"""Ridge regression from sums, its penalty chosen for each horizon by cross-validation over blocks of days."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from atft.linear.sums import BlockSums, Gram, Products, Sums

# Of the mean of X'X's diagonal. With the largest, coefficients are 0 to within rounding: there is no signal.
PENALTIES: Final = tuple(float(10.0 ** (step / 2)) for step in range(-6, 17))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ridge:
    """Coefficients and, for each horizon, the penalty as a multiple of the mean of X'X's diagonal."""

    coefficients: Products
    penalties: tuple[float, ...]

    @property
    def no_signal(self) -> tuple[bool, ...]:
        """For each horizon, whether the largest penalty was the best: the columns say nothing about the labels."""
        return tuple(penalty == PENALTIES[-1] for penalty in self.penalties)


def fit_ridge(sums: BlockSums, beat: Callable[[], None] = lambda: None) -> Ridge:
    """Ridge regression on all samples, each horizon with the penalty of the least squared error over left-out blocks.
    `beat` is called after each decomposition.

    Generalized cross-validation would not do: labels of h days overlap, so that rows are not independent.
    """
    total = sums.total()
    errors = np.zeros((len(PENALTIES), total.products.shape[1]))
    for rest, judged in sums.splits():
        errors += _errors(rest, judged)
        beat()
    chosen = errors.argmin(axis=0)
    paths = _paths(total.gram, total.products)
    return Ridge(
        coefficients=np.stack([paths[chosen[h], :, h] for h in range(len(chosen))], axis=1),
        penalties=tuple(PENALTIES[i] for i in chosen),
    )


def _errors(fitted: Sums, judged: Sums) -> Float[np.ndarray, "penalty horizon"]:
    """Squared errors on the judged samples, less the labels' own squares."""
    paths = _paths(fitted.gram, fitted.products)
    fit = np.einsum("pch,ch->ph", paths, judged.products)
    size = np.stack([np.einsum("ch,ch->h", path, judged.gram @ path) for path in paths])
    return np.asarray(size - 2.0 * fit)


def _paths(gram: Gram, products: Products) -> Float[np.ndarray, "penalty column horizon"]:
    """Coefficients for every penalty, from one decomposition."""
    values, vectors = np.linalg.eigh(gram)
    projected = vectors.T @ products
    scale = max(float(values.mean()), np.finfo(np.float64).tiny)
    return np.stack(
        [vectors @ (projected / (np.maximum(values, 0.0) + penalty * scale)[:, None]) for penalty in PENALTIES]
    )
