from dataclasses import replace

import pytest
import torch

from atft.data.cache.batch import Batch
from atft.model.network import Network
from atft.spec.model import ModelSpec, network_sizes, num_parameters
from atft.train.setup import has_bfloat16_lstm

SMALL = {"hidden_size": 8, "attention_heads": 2, "gat_heads": 2, "fan_top_k": 2, "dropout": 0.0, "gat_dropout": 0.0}


def network(features: int = 5, horizons: int = 2, window: int = 8, **changes: object) -> Network:
    torch.manual_seed(0)
    return Network(num_features=features, num_horizons=horizons, window=window, model=ModelSpec(**(SMALL | changes)))


def test_children_are_named_for_the_evidence() -> None:
    assert [name for name, _ in network().named_children()] == ["selection", "fan", "temporal", "graph", "heads"]
    assert [name for name, _ in network(use_fan=False, use_gat=False).named_children()] == [
        "selection",
        "temporal",
        "heads",
    ]


def test_shared_rows_equal_the_plain_form_of_one_window_after_the_other(make_batch) -> None:
    batch, model = make_batch(days=3), network(use_gat=False)
    plain = replace(
        batch,
        x=batch.x[batch.windows].flatten(0, 1),
        windows=torch.arange(batch.windows.numel()).view(batch.windows.shape),
    )
    torch.testing.assert_close(model(batch).scores, model(plain).scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_fan", [True, False])
@pytest.mark.parametrize("use_gat", [True, False])
def test_pain_23_every_day_and_feature_of_a_window_changes_the_score(make_batch, use_fan: bool, use_gat: bool) -> None:
    batch = make_batch(days=1, names=1)
    empty = replace(
        batch, edges=batch.edges[:, :0], edge_attributes=batch.edge_attributes[:0], x=batch.x.requires_grad_()
    )
    scores = network(use_fan=use_fan, use_gat=use_gat)(empty).scores
    for score in scores[0]:
        (slope,) = torch.autograd.grad(score, batch.x, retain_graph=True)
        assert (slope != 0).all()


@pytest.mark.parametrize("use_gat", [True, False])
def test_pain_26_removing_edges_changes_scores_only_with_a_graph(make_batch, use_gat: bool) -> None:
    batch, model = make_batch(), network(use_gat=use_gat)
    without = replace(batch, edges=batch.edges[:, 1:], edge_attributes=batch.edge_attributes[1:])
    changed = (model(batch).scores - model(without).scores).abs().amax(dim=1) > 1e-7
    assert changed.any().item() is use_gat
    assert not changed[batch.day == 1].any()  # an edge of day 0 says nothing about day 1


def test_permuting_the_stocks_of_a_day_permutes_the_scores(make_batch) -> None:
    batch, model = make_batch(days=1), network()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    new_index = torch.argsort(order)
    permuted = replace(batch, windows=batch.windows[order], edges=new_index[batch.edges])
    torch.testing.assert_close(model(permuted).scores, model(batch).scores[order])


def test_days_of_a_batch_equal_calls_of_one_day(make_batch) -> None:
    batch, model = make_batch(days=3), network()
    scores = model(batch).scores
    for day in range(3):
        mine, edges = batch.day == day, batch.day[batch.edges[0]] == day
        alone = replace(
            batch,
            windows=batch.windows[mine],
            targets=batch.targets[mine],
            labels=batch.labels[mine],
            ranks=batch.ranks[mine],
            ranked=batch.ranked[mine],
            day=batch.day[mine] - day,
            num_days=1,
            edges=batch.edges[:, edges] - 6 * day,
            edge_attributes=batch.edge_attributes[edges],
            rows=batch.rows[mine.numpy()],
            day_numbers=batch.day_numbers[day : day + 1],
        )
        torch.testing.assert_close(model(alone).scores, scores[mine])


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5])
def test_pain_38_any_number_of_graph_layers_runs(make_batch, layers: int) -> None:
    model = network(gat_layers=layers, stochastic_depth=0.3)
    model(make_batch()).scores.sum().backward()
    assert model.graph is not None
    assert len(model.graph.convolutions) == layers


@pytest.mark.parametrize("changes", [{}, {"use_fan": False}, {"use_gat": False}, {"quantiles": (0.1, 0.5, 0.9)}])
def test_pain_25_every_parameter_receives_a_gradient_at_the_start(make_batch, changes: dict[str, object]) -> None:
    model = network(**changes)
    model(make_batch(days=3, names=20)).scores.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # The levels above the median say nothing about the median's score: the pinball loss reaches them.
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("features", [1, 8, 13])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_fan": False},
        {"use_gat": False},
        {"gat_layers": 5, "learn_temperature": False},
        {"quantiles": (0.1, 0.5, 0.9)},
        {"hidden_size": 12, "fan_top_k": 3, "freq_dropout": 0.2, "stochastic_depth": 0.1},
        {"hidden_size": 16, "gat_heads": 4},
    ],
)
def test_pain_43_the_number_of_parameters_is_known_without_torch(features: int, changes: dict[str, object]) -> None:
    for window, horizons in ((4, 1), (20, 4)):
        model = network(features, horizons, window, **changes)
        spec = ModelSpec(**(SMALL | changes))
        counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert num_parameters(spec, features, horizons, window) == counted
        for name, sizes in network_sizes(spec, features, horizons, window).items():
            assert sorted(sizes) == sorted(p.numel() for p in model.get_submodule(name).parameters()), name


@pytest.mark.skipif(not has_bfloat16_lstm(), reason="this processor has no LSTM in bfloat16")
@pytest.mark.parametrize("changes", [{}, {"quantiles": (0.1, 0.5, 0.9), "freq_dropout": 0.3}])
def test_bfloat16_autocast_stays_finite_and_close(make_batch, changes: dict[str, object]) -> None:
    batch, model = make_batch(), network(**changes).eval()
    exact = model(batch).scores
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model(batch)
    assert prediction.scores.dtype == torch.float32
    torch.testing.assert_close(prediction.scores, exact, atol=0.05, rtol=0.1)
    prediction.scores.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_randomness_comes_from_torchs_global_generator_alone(make_batch) -> None:
    batch = make_batch()
    model = network(dropout=0.3, gat_dropout=0.3, freq_dropout=0.3, stochastic_depth=0.5)
    draws = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        draws.append(model(batch).scores)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_selection_weights_are_reported_without_gradient(make_batch) -> None:
    prediction = network()(make_batch())
    assert prediction.selection.shape == (5,)
    assert prediction.selection.sum().item() == pytest.approx(1.0)
    assert not prediction.selection.requires_grad


def test_a_batch_is_not_changed(make_batch) -> None:
    batch: Batch = make_batch()
    before = batch.x.clone()
    network()(batch).scores.sum().backward()
    assert torch.equal(batch.x, before)
