"""Graph attention over a day's stocks: GATv2 layers (Brody et al. 2022), each with a gated residual connection."""

import warnings

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from atft.spec.model import EDGE_SIZE

with warnings.catch_warnings():
    # torch_geometric scripts classes when it is imported, which torch now deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch_geometric.nn.conv.gatv2_conv import GATv2Conv

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.5, 2.0
RESIDUAL_CORRELATION = 3  # column of the edge attributes
INITIAL_LOGITS = 5.0  # logits per unit of correlation at the start
EDGE_WEIGHT = 4.0  # outweighs the terms of the two stocks' states at the start


class GatedFusion(nn.Module):
    """Gated fusion `base + σ((W[base‖gat] + b)/τ) · gat · ‖base‖/‖gat‖`, with one gate per channel.

    The rescaling gives both terms the same norm, so that neither dominates. τ starts at 1.
    """

    raw_temperature: Tensor

    def __init__(self, *, hidden_size: int, learn_temperature: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * hidden_size, hidden_size)
        span = (1.0 - LOWEST_TEMPERATURE) / (HIGHEST_TEMPERATURE - LOWEST_TEMPERATURE)
        raw = torch.logit(torch.tensor(span))
        if learn_temperature:
            self.raw_temperature = nn.Parameter(raw)
        else:
            self.register_buffer("raw_temperature", raw, persistent=False)

    @property
    def temperature(self) -> Float[Tensor, ""]:
        temperature = torch.sigmoid(self.raw_temperature) * (HIGHEST_TEMPERATURE - LOWEST_TEMPERATURE)
        return temperature + LOWEST_TEMPERATURE

    def forward(
        self, base: Float[Tensor, "stock hidden"], gat: Float[Tensor, "stock hidden"]
    ) -> Float[Tensor, "stock hidden"]:
        """The term to add to `base`."""
        chosen = torch.sigmoid(self.gate(torch.cat([base, gat], dim=-1)) / self.temperature)
        with torch.autocast(base.device.type, enabled=False):
            wide = gat if gat.dtype == torch.float64 else gat.float()
            size = base.to(wide.dtype).norm(dim=-1, keepdim=True) / wide.norm(dim=-1, keepdim=True).clamp_min(1e-6)
            added: Tensor = chosen.to(wide.dtype) * wide * size
            return added


class DayGraphAttention(nn.Module):
    """`layers` GATv2 layers, each with a gated fusion.

    Stochastic depth: in training a layer is skipped with a probability that grows linearly to `stochastic_depth`.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        layers: int,
        heads: int,
        dropout: float,
        stochastic_depth: float,
        learn_temperature: bool,
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            GATv2Conv(
                hidden_size,
                hidden_size // heads,
                heads=heads,
                dropout=dropout,
                edge_dim=EDGE_SIZE,
                add_self_loops=False,
            )
            for _ in range(layers)
        )
        for convolution in self.convolutions:
            init_heads_by_correlation(convolution)
        self.fusions = nn.ModuleList(
            GatedFusion(hidden_size=hidden_size, learn_temperature=learn_temperature) for _ in range(layers)
        )
        self.skip_rates = [stochastic_depth * (layer + 1) / layers for layer in range(layers)]

    def forward(
        self, base: Float[Tensor, "stock hidden"], edges: Int64[Tensor, "2 edge"], attributes: Float[Tensor, "edge 4"]
    ) -> Float[Tensor, "stock hidden"]:
        """`edges` are (from, to) without self-loops, which are added here once for all layers."""
        edges, attributes = with_self_edges(edges, attributes, base.shape[0])
        for convolution, fusion, rate in zip(self.convolutions, self.fusions, self.skip_rates, strict=True):
            if self.training and rate > 0:
                if torch.rand(()).item() < rate:
                    continue
                base = base + fusion(base, convolution(base, edges, attributes)) / (1 - rate)
            else:
                base = base + fusion(base, convolution(base, edges, attributes))
        return base


def init_heads_by_correlation(convolution: GATv2Conv) -> None:
    """Initialise even heads to attend to positively correlated neighbours, odd heads to negatively correlated ones.

    Attention weights are positive, so that only a separate head can subtract neighbours of the opposite sign. From a
    random initialisation all heads average the same neighbours, and a weak signal does not separate them (measured on
    the planted panel `graph_only`: no correlation with the oracle; docs/experiments.md).
    """
    channels = convolution.out_channels
    side = torch.ones(channels)
    side[1::2] = -1.0  # the sum of leaky ReLU over +x and -x channels is linear in x
    head = torch.ones(convolution.heads, 1)
    head[1::2] = -1.0
    slope = (1 + convolution.negative_slope) / 2
    with torch.no_grad():
        convolution.lin_edge.weight[:, RESIDUAL_CORRELATION] = EDGE_WEIGHT * side.repeat(convolution.heads)
        convolution.att.copy_((INITIAL_LOGITS / (EDGE_WEIGHT * slope * channels) * head * side).unsqueeze(0))


def with_self_edges(
    edges: Int64[Tensor, "2 edge"], attributes: Float[Tensor, "edge 4"], num_stocks: int
) -> tuple[Int64[Tensor, "2 more"], Float[Tensor, "more 4"]]:
    """Add an edge from each stock to itself, with attributes 0."""
    itself = torch.arange(num_stocks, device=edges.device).expand(2, -1)
    return torch.cat([edges, itself], dim=1), torch.cat([attributes, attributes.new_zeros(num_stocks, EDGE_SIZE)])
