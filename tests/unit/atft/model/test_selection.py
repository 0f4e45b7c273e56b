import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from atft.model.selection import GatedResidual, VariableSelection


def textbook(network: GatedResidual, a: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
    """Equations 2-5 of the paper, written out."""
    entered = a @ network.enter.weight.T + network.enter.bias
    if context is not None:
        entered = entered + context @ network.context.weight.T
    e2 = F.elu(entered)
    e1 = e2 @ network.inner.weight.T + network.inner.bias
    (w5, w4), (b5, b4) = network.gate.weight.chunk(2), network.gate.bias.chunk(2)
    glu = torch.sigmoid(e1 @ w4.T + b4) * (e1 @ w5.T + b5)
    skip = a if network.skip is None else a @ network.skip.weight.T + network.skip.bias
    return F.layer_norm(skip + glu, skip.shape[-1:], network.norm.weight, network.norm.bias)


@pytest.mark.parametrize("output_size", [5, 3])
@pytest.mark.parametrize("context_size", [0, 4])
def test_gated_residual_equals_the_equations_of_the_paper(output_size: int, context_size: int) -> None:
    torch.manual_seed(0)
    network = GatedResidual(input_size=5, hidden_size=6, output_size=output_size, context_size=context_size)
    a = torch.randn(7, 5)
    context = torch.randn(7, context_size) if context_size else None
    torch.testing.assert_close(network(a, context), textbook(network, a, context))


def test_a_declared_context_is_required() -> None:
    with pytest.raises(ValueError, match="context"):
        GatedResidual(input_size=2, hidden_size=3, output_size=2, context_size=1)(torch.randn(1, 2))


def test_selection_is_the_weighted_sum_of_the_embeddings_one_by_one() -> None:
    torch.manual_seed(0)
    features, hidden = 5, 6
    selection = VariableSelection(num_features=features, hidden_size=hidden)
    x = torch.randn(9, features)
    out, weights = selection(x)
    torch.testing.assert_close(weights, torch.softmax(textbook(selection.gate, x, None), dim=-1))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(9))
    slow = selection.mix.bias.repeat(9, 1)
    for j, matrix in enumerate(selection.mix.weight.view(hidden, features, -1).unbind(1)):
        embedding = F.elu(x[:, j : j + 1] * selection.scale[j] + selection.shift[j]) @ matrix.T
        slow = slow + features * weights[:, j : j + 1] * embedding
    torch.testing.assert_close(out, slow)


def test_the_state_keeps_its_scale_at_any_number_of_features() -> None:
    for features in (4, 64, 256):
        torch.manual_seed(0)
        out, _ = VariableSelection(num_features=features, hidden_size=16)(torch.randn(64, features))
        assert 0.3 < out.std().item() < 3.0


def test_features_start_nearly_alike_whatever_their_value() -> None:
    """At full size the gate's skip would start a feature of -2 fifty times fainter than one of 2."""
    torch.manual_seed(0)
    selection = VariableSelection(num_features=16, hidden_size=8)
    _, weights = selection(torch.randn(500, 16))
    assert weights.max() / weights.min() < 2.5
