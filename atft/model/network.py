"""The network ATFT-GAT-FAN: rows → selection → windows → FAN → LSTM ‖ attention → day graph → heads.

Selection runs once per row of the batch, and windows are gathered from its output. Randomness comes only from torch's
global generator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from jaxtyping import Float
from torch import Tensor, nn

from atft.data.cache.batch import Batch
from atft.model.fan import Fan, FrequencyDropout
from atft.model.graph import DayGraphAttention
from atft.model.heads import HorizonHeads
from atft.model.selection import VariableSelection
from atft.model.temporal import Temporal
from atft.spec.model import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Output of the network: scores and, if configured, quantiles at `levels`.

    `selection` is the mean selection weight of each feature over the batch's rows, detached.
    """

    scores: Float[Tensor, "stock horizon"]
    quantiles: Float[Tensor, "stock horizon quantile"] | None
    levels: tuple[float, ...] | None
    selection: Float[Tensor, " feature"]


Days = Float[Tensor, "day stock hidden"]


class Encoder(nn.Module):
    """The network without its heads: computes the state of each stock on each day.

    Children: `selection`, `fan` (with `use_fan`), `temporal`, `graph` (with `use_gat`).
    """

    def __init__(self, *, num_features: int, window: int, model: ModelSpec) -> None:
        super().__init__()
        self.window = window
        self.selection = VariableSelection(
            num_features=num_features, hidden_size=model.hidden_size, dropout=model.dropout
        )
        self.frequency_dropout = (
            FrequencyDropout(window=window, rate=model.freq_dropout) if model.freq_dropout else None
        )
        self.fan = Fan(window=window, hidden_size=model.hidden_size, top_k=model.fan_top_k) if model.use_fan else None
        self.temporal = Temporal(
            window=window,
            hidden_size=model.hidden_size,
            attention_heads=model.attention_heads,
            context_size=model.hidden_size if model.use_fan else 0,
            dropout=model.dropout,
        )
        self.graph = (
            DayGraphAttention(
                hidden_size=model.hidden_size,
                layers=model.gat_layers,
                heads=model.gat_heads,
                dropout=model.gat_dropout,
                stochastic_depth=model.stochastic_depth,
                learn_temperature=model.learn_temperature,
            )
            if model.use_gat
            else None
        )

    def encode(
        self, batch: Batch, change: Callable[[Days], Days] | None = None
    ) -> tuple[Float[Tensor, "stock hidden"], Float[Tensor, "row feature"]]:
        """The samples' states, and the selection weights of the batch's rows.

        `change` transforms the windows before any other part reads them.
        """
        rows, weights = self.selection(batch.x)
        days = F.embedding(batch.windows.T, rows)  # [day, stock, hidden]: time first, so that FAN is one matrix product
        if change is not None:
            days = change(days)
        if self.frequency_dropout is not None:
            days = self.frequency_dropout(days)
        days, amplitudes = self.fan(days) if self.fan is not None else (days, None)
        state: Tensor = self.temporal(days, amplitudes)
        if self.graph is not None:
            state = self.graph(state, batch.edges, batch.edge_attributes)
        return state, weights


class Network(Encoder):
    """The encoder with `heads` that give scores."""

    def __init__(self, *, num_features: int, num_horizons: int, window: int, model: ModelSpec) -> None:
        super().__init__(num_features=num_features, window=window, model=model)
        self.levels = model.quantiles
        self.heads = HorizonHeads(
            hidden_size=model.hidden_size,
            num_horizons=num_horizons,
            quantiles=model.quantiles,
            dropout=model.dropout,
        )

    def forward(self, batch: Batch) -> Prediction:
        state, weights = self.encode(batch)
        scores, quantiles = self.heads(state)
        return Prediction(
            scores=scores, quantiles=quantiles, levels=self.levels, selection=weights.detach().mean(dim=0)
        )
