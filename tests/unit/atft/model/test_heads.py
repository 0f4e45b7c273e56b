from statistics import NormalDist

import pytest
import torch

from atft.model.heads import HorizonHeads, median_weights


def test_quantiles_increase_and_start_at_those_of_a_standard_normal() -> None:
    torch.manual_seed(0)
    levels = (0.1, 0.25, 0.5, 0.9)
    heads = HorizonHeads(hidden_size=8, num_horizons=3, quantiles=levels, dropout=0.0)
    scores, quantiles = heads(100 * torch.randn(50, 8))
    assert quantiles is not None
    assert (quantiles.diff(dim=-1) >= 0).all()
    torch.testing.assert_close(scores, quantiles[..., 2])
    _, start = heads(torch.zeros(1, 8))
    assert start is not None
    expected = torch.tensor([NormalDist().inv_cdf(q) for q in levels])
    torch.testing.assert_close(start[0, 0], expected, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("levels", "weights"),
    [
        ((0.1, 0.5, 0.9), [0, 1, 0]),
        ((0.25, 0.75), [0.5, 0.5]),
        ((0.6, 0.7), [1, 0]),
        ((0.1, 0.2), [0, 1]),
        ((0.2, 0.6), [0.25, 0.75]),
    ],
)
def test_the_score_is_the_interpolated_median(levels: tuple[float, ...], weights: list[float]) -> None:
    torch.testing.assert_close(median_weights(levels), torch.tensor(weights, dtype=torch.float32))


def test_without_quantiles_there_is_one_score_a_horizon() -> None:
    scores, quantiles = HorizonHeads(hidden_size=8, num_horizons=3, quantiles=None, dropout=0.0)(torch.randn(5, 8))
    assert scores.shape == (5, 3)
    assert quantiles is None
