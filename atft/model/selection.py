"""Variable selection by gated residual networks (Lim et al. 2021, arXiv 1912.09363).

The paper gives every variable a network of its own, 11-14 times the cost of all the rest at 112 features. Here a
variable has an embedding of `VARIABLE_SIZE` numbers, and all variables share one matrix product; the gating is the
paper's.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from jaxtyping import Float
from torch import Tensor, nn

from atft.spec.model import VARIABLE_SIZE

INITIAL_GATE_SCALE = 0.1  # spread of the selection's logits at the start


class GatedResidual(nn.Module):
    """`LayerNorm(skip(a) + GLU(dropout(W1 ELU(W2 a + b2 + W3 c) + b1)))`, equations 2-5.

    The skip is linear when sizes differ; GLU's W4 and W5 are the halves of one matrix.
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
                raise ValueError("this network was built with a context: give it")
            entered = entered + self.context(context)
        inner = self.dropout(self.inner(F.elu(entered)))
        skipped = a if self.skip is None else self.skip(a)
        summed: Tensor = skipped + F.glu(self.gate(inner), dim=-1)
        normed: Tensor = self.norm(summed.float() if summed.dtype == torch.bfloat16 else summed)
        return normed


class VariableSelection(nn.Module):
    """`out = Σ_j v_j ξ_j` with `v = softmax(GRN(x))` and `ξ_j = F · P_jᵀ ELU(a_j x_j + b_j)`; the factor F keeps the
    sum's scale at any F.
    """

    def __init__(self, *, num_features: int, hidden_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate = GatedResidual(
            input_size=num_features, hidden_size=hidden_size, output_size=num_features, dropout=dropout
        )
        # The gate's skip hands x itself to the softmax: at full size a feature of -2 would start 50 times fainter than
        # one of 2. All start nearly alike, and what the features say arrives undistorted.
        nn.init.constant_(self.gate.norm.weight, INITIAL_GATE_SCALE)
        self.scale = nn.Parameter(torch.randn(num_features, VARIABLE_SIZE))
        self.shift = nn.Parameter(0.5 * torch.randn(num_features, VARIABLE_SIZE))
        self.mix = nn.Linear(num_features * VARIABLE_SIZE, hidden_size)
        nn.init.normal_(self.mix.weight, std=(num_features * VARIABLE_SIZE) ** -0.5)
        nn.init.zeros_(self.mix.bias)

    def forward(
        self, x: Float[Tensor, "row feature"]
    ) -> tuple[Float[Tensor, "row hidden"], Float[Tensor, "row feature"]]:
        """The rows' hidden state and the selection weights, which sum to 1 on every row."""
        weights = torch.softmax(self.gate(x), dim=-1)
        embedded = F.elu(torch.addcmul(self.shift, x.unsqueeze(-1), self.scale))
        weighted = embedded * (weights * x.shape[1]).unsqueeze(-1)
        return self.mix(weighted.flatten(1)), weights
