from dataclasses import replace

import numpy as np
import pytest
import torch

from atft.data.cache.batch import Batch
from atft.loss.masking import fraction_unexplained, info_nce
from atft.model.masking import MaskedPrediction

NAMES = 6


def batch(days: int = 2) -> Batch:
    """Stock n of day d has row d·NAMES + n; the last column is the market's."""
    number = days * NAMES
    x = torch.randn(number, 4, generator=torch.Generator().manual_seed(0))
    day = torch.repeat_interleave(torch.arange(days), NAMES)
    x[:, 3] = day.float() + 5.0
    return Batch(
        x=x,
        windows=torch.arange(number).unsqueeze(1),
        targets=torch.zeros(number, 1),
        labels=torch.full((number, 1), torch.nan),
        ranks=torch.full((number, 1), torch.nan),
        ranked=torch.ones(number, dtype=torch.bool),
        day=day,
        num_days=days,
        edges=torch.empty(2, 0, dtype=torch.int64),
        edge_attributes=torch.empty(0, 4),
        day_numbers=np.arange(days),
        rows=np.arange(number),
    )


def prediction(b: Batch, inputs: torch.Tensor) -> MaskedPrediction:
    masked = torch.zeros(len(b.day), dtype=torch.bool)
    masked[[0, 2, NAMES + 1]] = True
    return MaskedPrediction(inputs=inputs, masked=masked, views=None)


def test_fraction_unexplained_is_1_for_zeros_and_0_for_a_perfect_prediction() -> None:
    b = batch()
    mean = torch.stack([b.x[b.day == d].mean(dim=0) for d in range(2)])[b.day]
    nothing, defined = fraction_unexplained(prediction(b, torch.zeros_like(b.x)), b, min_names=NAMES)
    assert nothing.tolist() == pytest.approx([1.0, 1.0])
    assert defined.all()
    perfect, _ = fraction_unexplained(prediction(b, b.x - mean), b, min_names=NAMES)
    assert perfect.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    half, _ = fraction_unexplained(prediction(b, (b.x - mean) / 2), b, min_names=NAMES)
    assert half.tolist() == pytest.approx([0.25, 0.25])


def test_only_masked_stocks_count_and_days_stay_apart() -> None:
    b = batch()
    inputs = torch.zeros_like(b.x, requires_grad=True)
    value, _ = fraction_unexplained(prediction(b, inputs), b, min_names=NAMES)
    (slope,) = torch.autograd.grad(value[0], inputs)
    assert torch.nonzero(slope.abs().sum(dim=1)).squeeze(-1).tolist() == [0, 2]


def test_a_day_of_few_or_of_equal_stocks_is_undefined() -> None:
    b = batch()
    none, defined = fraction_unexplained(prediction(b, torch.zeros_like(b.x)), b, min_names=NAMES + 1)
    assert not defined.any()
    assert none.isfinite().all()
    equal = replace(b, x=torch.where(b.day.unsqueeze(1) == 0, 1.0, b.x))
    assert fraction_unexplained(prediction(b, torch.zeros_like(b.x)), equal, min_names=2)[1].tolist() == [False, True]


def test_info_nce_by_hand() -> None:
    b, codes = batch(), torch.arange(NAMES).repeat(2)
    views = torch.randn(2 * NAMES, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value, defined = info_nce(views.float(), codes, b, temperature=0.07, min_names=2)
    unit = views / views.norm(dim=1, keepdim=True)
    similar = (unit[:NAMES] @ unit[NAMES:].T / 0.07).exp()
    expected = -(similar.diagonal() / similar.sum(dim=1)).log().mean()
    back = -(similar.diagonal() / similar.sum(dim=0)).log().mean()
    assert value.tolist() == pytest.approx([float(expected), float(back)], rel=1e-4)
    assert defined.all()


def test_info_nce_needs_the_next_day_and_the_same_stocks() -> None:
    alone = batch(days=1)
    assert info_nce(torch.ones(NAMES, 3), torch.arange(NAMES), alone, temperature=0.07, min_names=2)[1].tolist() == [
        False
    ]
    codes = torch.arange(2 * NAMES)  # nobody is there on both days
    value, defined = info_nce(torch.ones(2 * NAMES, 3), codes, batch(), temperature=0.07, min_names=2)
    assert not defined.any()
    assert value.tolist() == [0.0, 0.0]
