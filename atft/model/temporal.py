"""Temporal encoder: LSTM and attention over the window, merged into a state of the last day. Time is the first axis."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atft.model.selection import GatedResidual

INITIAL_FORGET_BIAS = 1.0  # keeps three quarters of the cell state a day, σ(1) ≈ .73
MIN_COSINE_HEADS = 3  # fewer phases cannot represent both sine and cosine
INITIAL_COSINE_AMPLITUDE = 2.0  # of the logits over one period


class LastDayAttention(nn.Module):
    """Multi-head attention with the last day as its only query, since only the last day's output is used.

    Each head has a learned bias over age (ALiBi, Press et al. 2022, arXiv 2108.12409; `initial_recency_bias`) with its
    own initial values, and a learned position encoding is added to the days. Without them attention could not
    distinguish days by age, and all heads would start as the same mean of the window.
    With a single query it is cheaper to project the query by the key matrix, and the weighted mean of the days by the
    value matrix, than to project every day by both. (The key has no bias: it would add the same to every day.)
    """

    def __init__(self, *, window: int, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(0.02 * torch.randn(window, 1, hidden_size))
        self.recency = nn.Parameter(initial_recency_bias(heads, window))
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Float[Tensor, "day stock hidden"]) -> Float[Tensor, "stock hidden"]:
        stocks, hidden = x.shape[1:]
        size = hidden // self.heads
        encoded = (x + self.position).transpose(0, 1)
        query = self.query(encoded[:, -1]).view(stocks, self.heads, size) * size**-0.5
        projected_query = torch.einsum("nhe,hed->nhd", query, self.key.weight.view(self.heads, size, hidden))
        weights = torch.softmax(torch.bmm(projected_query, encoded.transpose(1, 2)) + self.recency, dim=-1)
        read = torch.bmm(weights, encoded)
        value = torch.einsum("nhd,hed->nhe", read, self.value.weight.view(self.heads, size, hidden)).flatten(1)
        out: Tensor = self.out(value + self.value.bias)
        return out


def initial_recency_bias(heads: int, window: int) -> Float[Tensor, "head day"]:
    """Initial logits of the days by head.

    Half of the heads (all of them if there are fewer than 6) decay with age: half-lives from 1 to `window` days in
    geometric steps; the last day's logit is 0. The others are cosines of one period over the window at different
    phases: differences between them give the window's slope and curvature (its first cosine and sine), which no mixture
    of exponential decays can represent.
    """
    turning = heads // 2 if heads // 2 >= MIN_COSINE_HEADS else 0
    age = torch.arange(window - 1, -1, -1)
    half_lives = float(window) ** (torch.arange(heads - turning) / max(1, heads - turning - 1))
    phases = torch.arange(turning) / max(1, turning)
    turn = torch.cos(2 * math.pi * (age / window - phases.unsqueeze(1)))
    return torch.cat([-math.log(2) * age / half_lives.unsqueeze(1), INITIAL_COSINE_AMPLITUDE * turn])


class Temporal(nn.Module):
    """LSTM and last-day attention in parallel, merged by a gated residual network."""

    def __init__(
        self, *, window: int, hidden_size: int, attention_heads: int, context_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(hidden_size, hidden_size)
        with torch.no_grad():  # Jozefowicz et al. 2015; torch's own, near 0, forgets half a day
            self.lstm.get_parameter("bias_hh_l0")[hidden_size : 2 * hidden_size].fill_(INITIAL_FORGET_BIAS)
        self.attention = LastDayAttention(window=window, hidden_size=hidden_size, heads=attention_heads)
        self.merge = GatedResidual(
            input_size=2 * hidden_size,
            hidden_size=hidden_size,
            output_size=hidden_size,
            context_size=context_size,
            dropout=dropout,
        )

    def forward(
        self, x: Float[Tensor, "day stock hidden"], context: Float[Tensor, "stock context"] | None = None
    ) -> Float[Tensor, "stock hidden"]:
        _, (last, _) = self.lstm(x)
        merged: Tensor = self.merge(torch.cat([last[0], self.attention(x)], dim=-1), context)
        return merged
