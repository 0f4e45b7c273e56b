"""Output heads: map a stock's state to one score per horizon, or to increasing quantiles."""

from collections.abc import Sequence
from statistics import NormalDist

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from jaxtyping import Float
from torch import Tensor, nn

HEAD_STD = 0.03  # a much smaller start is a recorded cause of collapsed predictions


class HorizonHeads(nn.Module):
    """A shared linear layer, ReLU and dropout, then one linear head per horizon (all in one matrix)."""

    median: Tensor

    def __init__(
        self, *, hidden_size: int, num_horizons: int, quantiles: Sequence[float] | None, dropout: float
    ) -> None:
        super().__init__()
        self.num_horizons = num_horizons
        self.num_quantiles = len(quantiles) if quantiles is not None else 0
        self.shared = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden_size, num_horizons * max(1, self.num_quantiles))
        nn.init.normal_(self.out.weight, std=HEAD_STD)
        nn.init.zeros_(self.out.bias)
        if quantiles is not None:
            self.register_buffer("median", median_weights(quantiles), persistent=False)
            with torch.no_grad():
                self.out.bias.copy_(_normal_quantile_bias(quantiles).repeat(num_horizons))

    def forward(
        self, state: Float[Tensor, "stock hidden"]
    ) -> tuple[Float[Tensor, "stock horizon"], Float[Tensor, "stock horizon quantile"] | None]:
        """Scores, and the quantiles if any; scores are then medians, interpolated between the nearest levels."""
        out = self.out(self.dropout(F.relu(self.shared(state))))
        out = out if out.dtype == torch.float64 else out.float()
        if not self.num_quantiles:
            return out, None
        first, increments = out.view(-1, self.num_horizons, self.num_quantiles).split(
            [1, self.num_quantiles - 1], dim=-1
        )
        quantiles = torch.cat([first, first + F.softplus(increments).cumsum(dim=-1)], dim=-1)
        return (quantiles * self.median.to(quantiles.dtype)).sum(dim=-1), quantiles


def median_weights(quantiles: Sequence[float]) -> Float[Tensor, " quantile"]:
    """Weights of the quantiles for the median by linear interpolation; the nearest quantile where 0.5 is outside."""
    levels = torch.tensor(quantiles)
    weights = torch.zeros(len(levels))
    above = int(torch.searchsorted(levels, 0.5))
    if above in {0, len(levels)}:
        weights[min(above, len(levels) - 1)] = 1.0
        return weights
    share = (0.5 - levels[above - 1]) / (levels[above] - levels[above - 1])
    weights[above - 1], weights[above] = 1 - share, share
    return weights


def _normal_quantile_bias(quantiles: Sequence[float]) -> Float[Tensor, " quantile"]:
    """Biases that initialise the quantiles to those of a standard normal, the scale of the labels."""
    values = torch.tensor([NormalDist().inv_cdf(q) for q in quantiles])
    return torch.cat([values[:1], torch.log(torch.expm1(values.diff()))])
