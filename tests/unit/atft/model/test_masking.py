from dataclasses import replace

import pytest
import torch

from atft.model.masking import MaskedNetwork
from atft.spec.model import ModelSpec
from atft.spec.pretrain import PretrainSpec

SMALL = {"hidden_size": 8, "attention_heads": 2, "gat_heads": 2, "fan_top_k": 2, "dropout": 0.0, "gat_dropout": 0.0}


def network(*, contrast: bool = False, ratio: float = 0.3) -> MaskedNetwork:
    torch.manual_seed(0)
    return MaskedNetwork(num_features=5, window=8, model=ModelSpec(**SMALL), mask_ratio=ratio, contrast=contrast)


@pytest.mark.parametrize("contrast", [False, True])
def test_parameters_are_counted_without_torch(contrast: bool) -> None:
    spec = PretrainSpec.model_validate(
        {"dataset": "d", "model": SMALL, "data": {"window": 8}, "contrast_weight": float(contrast)}
    )
    assert spec.num_parameters(5) == sum(p.numel() for p in network(contrast=contrast).parameters())


def test_a_masked_day_does_not_reach_its_own_prediction_and_all_else_does(make_batch) -> None:
    """The prediction depends on the stock's own past and, along an edge, on the neighbour's current day."""
    batch = make_batch(days=1)
    model = network().eval()
    masked = model.choose_masked(batch)
    last = batch.windows[:, -1]
    victim = int(torch.nonzero(masked)[0])
    friend = int(torch.nonzero(~masked)[0])
    batch = replace(
        batch,
        x=batch.x.requires_grad_(),
        edges=torch.tensor([[friend], [victim]]),
        edge_attributes=batch.edge_attributes[:1],
    )
    (slope,) = torch.autograd.grad(model(batch).inputs[victim].sum(), batch.x)
    assert (slope[last[victim]] == 0).all()
    assert (slope[batch.windows[victim, 0]] != 0).any()
    assert (slope[last[friend]] != 0).any()


def test_some_stocks_of_every_day_are_masked_at_random_and_the_same_in_evaluation(make_batch) -> None:
    batch, model = make_batch(days=3), network()
    names = int((batch.day == 0).sum())
    torch.manual_seed(1)
    drawn = [model.choose_masked(batch) for _ in range(4)]
    for masked in drawn:
        assert torch.bincount(batch.day[masked], minlength=3).tolist() == [max(1, round(0.3 * names))] * 3
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:])
    model.eval()
    before = torch.get_rng_state()
    assert torch.equal(model.choose_masked(batch), model.choose_masked(batch))
    assert torch.equal(torch.get_rng_state(), before)
    alone = replace(batch, ranked=torch.arange(len(batch.day)) == 0)
    assert torch.equal(model.choose_masked(alone), alone.ranked)  # who is not ranked is not guessed at
