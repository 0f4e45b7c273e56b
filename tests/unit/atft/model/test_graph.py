import pytest
import torch
from torch import nn

from atft.model.graph import DayGraphAttention, GatedFusion, with_self_edges


def network(**changes: object) -> DayGraphAttention:
    torch.manual_seed(0)
    settings = {
        "hidden_size": 8,
        "layers": 2,
        "heads": 2,
        "dropout": 0.0,
        "stochastic_depth": 0.0,
        "learn_temperature": True,
    }
    return DayGraphAttention(**(settings | changes))


def test_fusion_matches_norms() -> None:
    torch.manual_seed(0)
    fusion = GatedFusion(hidden_size=6, learn_temperature=False)
    nn.init.zeros_(fusion.gate.weight)
    nn.init.constant_(fusion.gate.bias, 50.0)
    base, gat = torch.randn(4, 6), 1000 * torch.randn(4, 6)
    torch.testing.assert_close(fusion(base, gat).norm(dim=1), base.norm(dim=1))


def test_temperature_starts_at_one_and_stays_within_its_bounds() -> None:
    fusion = GatedFusion(hidden_size=2, learn_temperature=True)
    assert fusion.temperature.item() == pytest.approx(1.0)
    for raw in (-100.0, 100.0):
        with torch.no_grad():
            fusion.raw_temperature.fill_(raw)
        assert 0.5 - 1e-6 <= fusion.temperature.item() <= 2.0 + 1e-6
    assert sum(p.numel() for p in GatedFusion(hidden_size=2, learn_temperature=False).parameters()) == 10


def test_one_layer_is_gatv2_written_out() -> None:
    """Attention over the neighbours and oneself, one destination at a time; the self edge has attributes 0."""
    convolution = network(layers=1).convolutions[0]
    torch.manual_seed(1)
    x, edges = torch.randn(5, 8), torch.tensor([[0, 1, 2, 4], [1, 2, 1, 0]])
    attributes = torch.rand(4, 4)
    left, right = convolution.lin_l(x).view(5, 2, 4), convolution.lin_r(x).view(5, 2, 4)
    rows = []
    for stock in range(5):
        incoming = [(int(edges[0, e]), attributes[e]) for e in range(4) if edges[1, e] == stock] + [
            (stock, torch.zeros(4))
        ]
        scores = [
            (
                torch.nn.functional.leaky_relu(left[j] + right[stock] + convolution.lin_edge(a).view(2, 4), 0.2)
                * convolution.att[0]
            ).sum(-1)
            for j, a in incoming
        ]
        weights = torch.softmax(torch.stack(scores), dim=0)
        rows.append(
            sum(weights[n].unsqueeze(-1) * left[j] for n, (j, _) in enumerate(incoming)).flatten() + convolution.bias
        )
    torch.testing.assert_close(convolution(x, *with_self_edges(edges, attributes, 5)), torch.stack(rows))


def test_a_day_without_edges_still_has_scores() -> None:
    out = network()(torch.randn(3, 8), torch.empty(2, 0, dtype=torch.int64), torch.empty(0, 4))
    assert torch.isfinite(out).all()


def test_stochastic_depth_skips_whole_layers_in_training_only() -> None:
    graph = network(layers=1, stochastic_depth=0.5)
    base, edges, attributes = torch.randn(3, 8), torch.tensor([[0, 1], [1, 2]]), torch.rand(2, 4)
    plain = graph.eval()(base, edges, attributes) - base
    graph.train()
    torch.manual_seed(0)
    added = [graph(base, edges, attributes) - base for _ in range(40)]
    skipped = [bool((a == 0).all()) for a in added]
    assert 10 < sum(skipped) < 30
    torch.testing.assert_close(added[skipped.index(False)], 2 * plain)


def test_pain_25_every_layer_receives_a_gradient() -> None:
    graph = network(layers=3)
    out = graph(torch.randn(6, 8), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]), torch.rand(4, 4))
    out.square().sum().backward()
    for name, parameter in graph.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.norm() > 0, name


def test_heads_start_with_attention_by_the_sign_of_the_correlation() -> None:
    """Neighbours with correlation +, - and 0: even heads attend to the first, odd heads to the second."""
    torch.manual_seed(0)
    graph = DayGraphAttention(
        hidden_size=64, layers=2, heads=4, dropout=0.0, stochastic_depth=0.0, learn_temperature=True
    )
    edges = torch.tensor([[1, 2, 3], [0, 0, 0]])
    attributes = torch.tensor([[0.9, 0, 1, 0.8], [0.1, 0, 1, -0.8], [0.5, 0, 1, 0.0]])
    for convolution in graph.convolutions:
        _, (_, weights) = convolution(torch.randn(4, 64), edges, attributes, return_attention_weights=True)
        with_it, against, neither = weights
        assert (with_it[::2] > 2 * neither[::2]).all()
        assert (against[1::2] > 2 * neither[1::2]).all()
        assert (with_it[1::2] < neither[1::2]).all()
        assert (against[::2] < neither[::2]).all()
