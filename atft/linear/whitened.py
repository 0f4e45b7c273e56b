"""Labels and columns of one day that are nearly independent from stock to stock."""

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from atft.linear.columns import Day
from atft.linear.risk import TrailingRisk
from atft.metrics.rank import average_ranks

Labels = Float[np.ndarray, "sample horizon"]


def whitened(day: Day, risk: TrailingRisk) -> tuple[Float[np.ndarray, "sample column"], Labels]:
    """The joint columns, and the labels over past volatility, of the samples whose labels are known, both whitened by
    the day's risk model; of the labels then the normal scores of their ranks, with mean 0 and variance 1.
    """
    known = day.known
    x, codes = day.joint()[known], day.codes[known]
    labels = day.labels[known]
    both = np.concatenate([x - x.mean(axis=0), labels - labels.mean(axis=0)], axis=1)
    both[:, x.shape[1] :] /= risk.volatility[day.number, codes][:, None]
    model = risk.model(day.number)
    if model is not None:
        both = model.covariance.whitener(codes)(both)
    return both[:, : x.shape[1]], _normal_scores(both[:, x.shape[1] :])


def _normal_scores(values: Labels) -> Labels:
    found = np.empty_like(values)
    for h in range(values.shape[1]):
        ranks = average_ranks(values[:, h], np.zeros(len(values), np.int64))
        scores = ndtri((ranks - 0.5) / len(values))
        scores -= scores.mean()
        found[:, h] = scores / max(float(scores.std()), np.finfo(np.float64).tiny)
    return found
