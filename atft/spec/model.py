"""Specs of the network and the graph, and the exact number of trainable parameters, without torch."""

from typing import Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from atft.spec.base import Spec, refuse

VARIABLE_SIZE = 8  # width of one variable's embedding in the selection network
EDGE_SIZE = 4  # attributes of an edge: correlation, same sector, volatility closeness, residual correlation

Module = Literal["selection", "fan", "temporal", "graph", "heads"]
Sizes = tuple[int, ...]  # numbers of elements of a module's parameter tensors, in no order


class ModelSpec(Spec):
    """Architecture of the network: sizes, dropout rates, and its optional parts (`use_fan`, `use_gat`, `quantiles`)."""

    hidden_size: int = Field(256, ge=4, le=4096)
    gat_layers: int = Field(2, ge=1, le=16)
    gat_heads: int = Field(4, ge=1, le=64)
    gat_dropout: float = Field(0.2, ge=0.0, lt=1.0)
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    attention_heads: int = Field(8, ge=1, le=64)
    fan_top_k: int = Field(4, ge=1, le=257)
    freq_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    stochastic_depth: float = Field(0.0, ge=0.0, lt=1.0)
    learn_temperature: bool = True
    use_fan: bool = True
    use_gat: bool = True
    quantiles: tuple[float, ...] | None = None

    @property
    def modules(self) -> tuple[Module, ...]:
        """The network's parts that have parameters, in the order of the forward pass."""
        optional: dict[Module, bool] = {"fan": self.use_fan, "graph": self.use_gat}
        return tuple(name for name in get_args(Module) if optional.get(name, True))

    @field_validator("quantiles")
    @classmethod
    def _increasing(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and (
            len(value) < 2 or any(not 0 < q < 1 for q in value) or list(value) != sorted(set(value))
        ):
            raise ValueError("quantiles are two or more increasing numbers between 0 and 1")
        return value

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden_size % self.attention_heads:
            refuse(
                "/hidden_size",
                f"hidden_size {self.hidden_size} must be a multiple of attention_heads {self.attention_heads}",
            )
        if self.use_gat and self.hidden_size % self.gat_heads:
            refuse("/hidden_size", f"hidden_size {self.hidden_size} must be a multiple of gat_heads {self.gat_heads}")
        return self


WITHOUT_NEIGHBOURS = (
    "each stock is trained without neighbours. For neighbours lower graph.threshold, shrinkage or refresh_days; "
    "otherwise model.use_gat: false takes less time"
)


class GraphSpec(Spec):
    """Graph of the stocks, from the correlations of returns up to a refresh day; windows and half-life in trading days.

    `neighbours_by` selects a stock's neighbours by absolute correlation, or by absolute correlation after the market's
    mean return is subtracted, because the common market return hides stocks that move against each other.
    """

    correlation_window: int = Field(60, ge=10, le=1000)
    half_life: int = Field(30, ge=1, le=1000)
    shrinkage: float = Field(0.1, ge=0.0, le=1.0)
    neighbours: int = Field(15, ge=1, le=200)
    neighbours_by: Literal["correlation", "residual_correlation"] = "correlation"
    threshold: float = Field(0.25, ge=0.0, lt=1.0)
    refresh_days: int = Field(5, ge=1, le=250)
    sector_edges: bool = True
    sector_weight: float = Field(0.5, ge=0.0, le=1.0)

    def edgeless_reason(self, num_days: int, *, has_sectors: bool) -> str | None:
        """Why the graph has no edge on the first `num_days` days, which end with the last training day, whatever the
        returns; None if it may have some.
        """
        if self.refresh_days > num_days:
            return f"the first refresh day, number {self.refresh_days}, comes after the last training day, {num_days}"
        largest = 1 - self.shrinkage
        if (self.sector_edges and has_sectors) or (largest > 0 and self.threshold < largest):
            return None
        sectors = "the dataset has no sectors" if self.sector_edges else "sector_edges is off"
        return (
            f"shrinkage {self.shrinkage:g} leaves no correlation above {largest:g}, the threshold is "
            f"{self.threshold:g}, and {sectors}"
        )


def linear(inputs: int, outputs: int) -> Sizes:
    """Sizes of a linear map's weight and bias."""
    return inputs * outputs, outputs


def num_parameters(model: ModelSpec, num_features: int, num_horizons: int, window: int) -> int:
    """Number of trainable parameters of `atft.model.network.Network`; optimizer moments and fixed tables are not
    parameters.
    """
    return sum(map(sum, network_sizes(model, num_features, num_horizons, window).values()))


def network_sizes(model: ModelSpec, num_features: int, num_horizons: int, window: int) -> dict[Module, Sizes]:
    """Size of each parameter tensor of `atft.model.network.Network`, by module."""
    outputs = num_horizons * (len(model.quantiles) if model.quantiles else 1)
    heads = linear(model.hidden_size, model.hidden_size) + linear(model.hidden_size, outputs)
    return encoder_sizes(model, num_features, window) | {"heads": heads}


def encoder_sizes(model: ModelSpec, num_features: int, window: int) -> dict[Module, Sizes]:
    """Size of each parameter tensor of `atft.model.network.Encoder`, by module: all but the heads."""
    hidden = model.hidden_size

    def gated_residual(inputs: int, outputs: int, context: int) -> Sizes:
        return (
            *linear(inputs, hidden),
            *([context * hidden] if context else []),
            *linear(hidden, hidden),
            *linear(hidden, 2 * outputs),
            *(linear(inputs, outputs) if inputs != outputs else ()),
            outputs,
            outputs,
        )

    embedding = num_features * VARIABLE_SIZE
    lstm = (4 * hidden * hidden, 4 * hidden * hidden, 4 * hidden, 4 * hidden)
    attention = (window * hidden, window * model.attention_heads, *(3 * linear(hidden, hidden)), hidden * hidden)
    two_ends, vector, edges, bias = 2 * linear(hidden, hidden), hidden, EDGE_SIZE * hidden, hidden
    fusion = linear(2 * hidden, hidden) + (1,) * model.learn_temperature
    sizes: dict[Module, Sizes] = {
        "selection": (
            *gated_residual(num_features, num_features, 0), embedding, embedding, *linear(embedding, hidden)
        ),
        "fan": linear(model.fan_top_k * hidden, hidden),
        "temporal": (*lstm, *attention, *gated_residual(2 * hidden, hidden, hidden if model.use_fan else 0)),
        "graph": model.gat_layers * (*two_ends, vector, edges, bias, *fusion),
    }  # fmt: skip
    return {name: sizes[name] for name in model.modules if name in sizes}
