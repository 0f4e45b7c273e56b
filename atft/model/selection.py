"""Variable selection by gated residual networks (Lim et al. 2021, arXiv 1912.09363).

The paper has a separate network for every variable, which at 112 features costs 11-14 times as much as all the rest.
Here each variable has an embedding of `VARIABLE_SIZE` numbers, and all variables share one matrix product; the gating
is as in the paper.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from jaxtyping import Float
from torch import Tensor, nn

from atft.spec.model import VARIABLE_SIZE

INITIAL_GATE_SCALE = 0.1  # initial scale of the selection logits


class GatedResidual(nn.Module):
    """Gated residual network `LayerNorm(skip(a) + GLU(dropout(W1 ELU(W2 a + b2 + W3 c) + b1)))`, equations 2-5.

    The skip connection is linear when sizes differ; W4 and W5 of the GLU are the halves of one matrix.
    """

    def __init__(
        self, *, input_size: int, hidden_size: int, output_size: int, context_size: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(input_size, hidden_size)
        self.context = nn.Linear(context_size, hidden_size, bias=False) if context_size else None
        self.inner = nn.Linear(hidden_size, hidden_size)
        self.gate = nn.Linear(hidden_size, 2 * output_size)
        self.skip = nn.Linear(input_size, output_size) if input_size != output_size else None
        self.norm = nn.LayerNorm(output_size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, a: Float[Tensor, "row input"], context: Float[Tensor, "row context"] | None = None
    ) -> Float[Tensor, "row output"]:
        entered = self.enter(a)
        if self.context is not None:
            if context is None:
                raise ValueError("this network was built with context_size: pass a context")
            entered = entered + self.context(context)
        inner = self.dropout(self.inner(F.elu(entered)))
        skipped = a if self.skip is None else self.skip(a)
        summed: Tensor = skipped + F.glu(self.gate(inner), dim=-1)
        normed: Tensor = self.norm(summed.float() if summed.dtype == torch.bfloat16 else summed)
        return normed


class VariableSelection(nn.Module):
    """Weighted sum of variable embeddings `Σ_j v_j ξ_j`, `v = softmax(GRN(x))`, `ξ_j = F · P_jᵀ ELU(a_j x_j + b_j)`.

    The factor F, the number of variables, keeps the sum's scale the same at any F.
    """

    def __init__(self, *, num_features: int, hidden_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate = GatedResidual(
            input_size=num_features, hidden_size=hidden_size, output_size=num_features, dropout=dropout
        )
        # The gate's skip connection passes x to the softmax: at full scale a feature of -2 would start with a weight 50
        # times smaller than one of 2. At this scale all weights start nearly equal.
        nn.init.constant_(self.gate.norm.weight, INITIAL_GATE_SCALE)
        self.scale = nn.Parameter(torch.randn(num_features, VARIABLE_SIZE))
        self.shift = nn.Parameter(0.5 * torch.randn(num_features, VARIABLE_SIZE))
        self.mix = nn.Linear(num_features * VARIABLE_SIZE, hidden_size)
        nn.init.normal_(self.mix.weight, std=(num_features * VARIABLE_SIZE) ** -0.5)
        nn.init.zeros_(self.mix.bias)

    def forward(
        self, x: Float[Tensor, "row feature"]
    ) -> tuple[Float[Tensor, "row hidden"], Float[Tensor, "row feature"]]:
        """Hidden states and selection weights of the rows; the weights of a row sum to 1."""
        weights = torch.softmax(self.gate(x), dim=-1)
        embedded = F.elu(torch.addcmul(self.shift, x.unsqueeze(-1), self.scale))
        weighted = embedded * (weights * x.shape[1]).unsqueeze(-1)
        return self.mix(weighted.flatten(1)), weights
