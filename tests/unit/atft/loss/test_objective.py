import inspect
import pkgutil
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from atft.data.cache.batch import Batch
from atft.loss.objective import NoTargets, Objective
from atft.model.network import Prediction
from atft.spec.data import DataSpec
from atft.spec.loss import BASES, RANKS, BaseName, LossSpec, RankName

DATA = DataSpec(horizons=(1, 5), min_names=3)


def batch(sizes: tuple[int, ...] = (5, 4)) -> Batch:
    generator = torch.Generator().manual_seed(0)
    day = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    number = len(day)
    return Batch(
        x=torch.zeros(number, 1),
        windows=torch.arange(number).unsqueeze(1),
        targets=torch.zeros(number, 2),
        labels=torch.randn(number, 2, generator=generator),
        ranks=torch.randn(number, 2, generator=generator),
        ranked=torch.ones(number, dtype=torch.bool),
        day=day,
        num_days=len(sizes),
        edges=torch.empty(2, 0, dtype=torch.int64),
        edge_attributes=torch.empty(0, 4),
        day_numbers=np.arange(len(sizes)),
        rows=np.arange(number),
    )


def prediction(number: int = 9, levels: tuple[float, ...] | None = None) -> Prediction:
    scores = torch.randn(number, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    quantiles = None if levels is None else scores.unsqueeze(-1) + torch.tensor(levels)
    return Prediction(scores=scores, quantiles=quantiles, levels=levels, selection=torch.ones(1))


def test_the_total_is_the_weighted_sum_of_its_parts() -> None:
    value = Objective(LossSpec(base="mse", base_weight=2.0, rank_weight=0.5), DATA)(prediction(), batch())
    assert set(value.parts) == {"base", "rank"}
    assert value.total.item() == pytest.approx(2 * value.parts["base"].item() + 0.5 * value.parts["rank"].item())
    assert value.total.requires_grad
    assert not value.parts["base"].requires_grad
    assert (value.num_days, value.num_skipped_days) == (2, 0)


def test_days_count_equally_whatever_their_size() -> None:
    b, p = batch(), prediction()
    objective = Objective(LossSpec(base="mse", rank_weight=0.0), DATA)
    square = (p.scores - b.labels).square()
    expected = (square[:5].mean() + square[5:].mean()) / 2
    torch.testing.assert_close(objective(p, b).total, expected)


def test_horizon_weights() -> None:
    b, p = batch(), prediction()
    square = (p.scores - b.labels).square()
    each = (square[:5].mean(dim=0) + square[5:].mean(dim=0)) / 2
    value = Objective(LossSpec(base="mse", rank_weight=0.0, horizon_weights=(3.0, 1.0)), DATA)(p, b)
    torch.testing.assert_close(value.total, (3 * each[0] + each[1]) / 4)
    with pytest.raises(ValueError, match="horizon weights"):
        Objective(LossSpec(horizon_weights=(1.0,)), DATA)


@pytest.mark.parametrize("rank", ["pearson_rank", "pairwise_sigmoid"])
def test_the_rank_term_reads_the_ranks_and_the_base_the_labels(rank: str) -> None:
    b, p = batch(), prediction()
    objective = Objective(LossSpec(rank=rank), DATA)
    value = objective(p, b)
    other_ranks = objective(p, replace(b, ranks=b.ranks.flip(0)))
    other_labels = objective(p, replace(b, labels=b.labels.flip(0)))
    assert other_ranks.parts["base"] == value.parts["base"]
    assert other_ranks.parts["rank"] != value.parts["rank"]
    assert other_labels.parts["rank"] == value.parts["rank"]
    assert other_labels.parts["base"] != value.parts["base"]


def test_samples_that_are_not_ranked_are_left_out() -> None:
    b, p = batch(), prediction()
    ranked = b.ranked.clone()
    ranked[0] = False
    objective = Objective(LossSpec(), DATA)
    total = objective(p, replace(b, ranked=ranked)).total
    total.backward()
    assert p.scores.grad is not None
    assert (p.scores.grad[0] == 0).all()
    assert (p.scores.grad[1:] != 0).all()


def test_skipped_days_are_counted_and_leave_the_mean_alone() -> None:
    b, p = batch((5, 4)), prediction()
    objective = Objective(LossSpec(base="mse"), DataSpec(horizons=(1, 5), min_names=5))
    value = objective(p, b)
    alone = batch((5,))
    first = objective(
        replace(p, scores=p.scores[:5]),
        replace(alone, labels=b.labels[:5], ranks=b.ranks[:5]),
    )
    torch.testing.assert_close(value.total, first.total)
    assert (value.num_days, value.num_skipped_days, value.num_constant_days) == (2, 1, 0)


def test_a_constant_prediction_is_counted_but_still_pulled_by_the_base() -> None:
    scores = torch.zeros(9, 2, requires_grad=True)
    value = Objective(LossSpec(), DATA)(replace(prediction(), scores=scores), batch())
    assert (value.num_skipped_days, value.num_constant_days) == (0, 2)
    assert value.parts["rank"] == 0
    value.total.backward()
    assert scores.grad is not None
    assert scores.grad.norm() > 0


def test_a_constant_prediction_without_a_base_adds_nothing() -> None:
    scores = torch.zeros(9, 2, requires_grad=True)
    value = Objective(LossSpec(base_weight=0.0), DATA)(replace(prediction(), scores=scores), batch())
    assert (value.total.item(), value.num_skipped_days) == (0.0, 2)


def test_a_horizon_without_targets_leaves_the_others() -> None:
    b, p = batch(), prediction()
    labels, ranks = b.labels.clone(), b.ranks.clone()
    labels[:, 1] = ranks[:, 1] = torch.nan
    value = Objective(LossSpec(), DATA)(p, replace(b, labels=labels, ranks=ranks))
    assert torch.isfinite(value.total)
    value.total.backward()
    assert p.scores.grad is not None
    assert (p.scores.grad[:, 1] == 0).all()
    assert value.num_skipped_days == 0


def test_pain_16_no_target_at_all_is_an_error() -> None:
    b = batch()
    nothing = torch.full_like(b.labels, torch.nan)
    with pytest.raises(NoTargets, match="9 samples on 2 days"):
        Objective(LossSpec(), DATA)(prediction(), replace(b, labels=nothing, ranks=nothing))
    with pytest.raises(NoTargets):
        Objective(LossSpec(), DATA)(prediction(), replace(b, ranked=torch.zeros_like(b.ranked)))


def test_pain_24_nan_scores_make_the_loss_nan() -> None:
    p = prediction()
    scores = p.scores.detach().clone()
    scores[3, 1] = torch.nan
    assert torch.isnan(Objective(LossSpec(), DATA)(replace(p, scores=scores), batch()).total)


def test_pinball_trains_the_quantiles() -> None:
    p = prediction(levels=(0.1, 0.5, 0.9))
    value = Objective(LossSpec(base="pinball", rank_weight=0.0), DATA)(p, batch())
    value.total.backward()
    assert p.scores.grad is not None
    assert p.scores.grad.norm() > 0
    with pytest.raises(ValueError, match="quantiles"):
        Objective(LossSpec(base="pinball"), DATA)(prediction(), batch())


def test_every_term_has_a_row_with_the_settings_of_its_function() -> None:
    assert (get_args(BaseName), get_args(RankName)) == (tuple(BASES), tuple(RANKS))
    for row in (*BASES.values(), *RANKS.values()):
        parameters = inspect.signature(pkgutil.resolve_name(row.function)).parameters.values()
        own = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY} - {"num_days", "min_names"}
        assert own == {*row.settings.values()} | ({"levels"} if row.on_quantiles else set()), row.function
        assert set(row.settings) <= set(LossSpec.model_fields), row.function
