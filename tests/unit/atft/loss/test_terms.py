from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from atft.loss import terms

Term = Callable[..., terms.Term]
RANK_TERMS = {"pearson_rank": terms.pearson_rank, "pairwise_sigmoid": partial(terms.pairwise_sigmoid, tau=0.3)}
BASE_TERMS = {"mse": terms.mse, "huber": terms.huber}
ALL = RANK_TERMS | BASE_TERMS
any_term = pytest.mark.parametrize("term", ALL.values(), ids=ALL.keys())
rank_term = pytest.mark.parametrize("term", RANK_TERMS.values(), ids=RANK_TERMS.keys())

Samples = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def ranks(values: torch.Tensor, day: torch.Tensor) -> torch.Tensor:
    """Average ranks of each day and horizon with mean 0 and std 1, as the batch gives them."""
    out = torch.empty_like(values)
    for number in day.unique():
        mine = day == number
        rank = torch.from_numpy(rankdata(values[mine].numpy(), axis=0)).to(values.dtype)
        out[mine] = (rank - rank.mean(dim=0)) / rank.std(dim=0)
    return out


def samples(sizes: tuple[int, ...] = (7, 5, 6), horizons: int = 2, dtype: torch.dtype = torch.float64) -> Samples:
    generator = torch.Generator().manual_seed(0)
    day = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    prediction = torch.randn(len(day), horizons, generator=generator, dtype=dtype)
    target = torch.randn(len(day), horizons, generator=generator, dtype=dtype)
    return prediction, ranks(target, day), torch.ones_like(target, dtype=torch.bool), day


@any_term
def test_gradcheck(term: Term) -> None:
    prediction, target, known, day = samples((4, 5), 1)
    known[1] = False
    prediction.requires_grad_()
    run = lambda p: term(p, target, known, day, num_days=2, min_names=3)[0]  # noqa: E731
    assert run(prediction).requires_grad
    assert torch.autograd.gradcheck(run, (prediction,))


def test_gradcheck_of_pinball() -> None:
    prediction, target, known, day = samples((4, 5), 1)
    quantiles = torch.stack([prediction - 1, prediction, prediction + 1], dim=-1).requires_grad_()
    run = lambda q: terms.pinball(q, target, known, day, levels=(0.1, 0.5, 0.9), num_days=2, min_names=3)[0]  # noqa: E731
    assert torch.autograd.gradcheck(run, (quantiles,))


@any_term
def test_permuting_the_stocks_of_a_day_changes_nothing_and_permutes_the_gradient(term: Term) -> None:
    prediction, target, known, day = samples((8,))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    values, slopes = [], []
    for index in (torch.arange(8), order):
        mine = prediction[index].requires_grad_()
        value, _ = term(mine, target[index], known[index], day, num_days=1, min_names=3)
        value.sum().backward()
        values.append(value.detach())
        slopes.append(mine.grad)
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(slopes[1], slopes[0][order])


@rank_term
def test_rank_terms_are_invariant_to_level_and_scale(term: Term) -> None:
    prediction, target, known, day = samples()
    run = partial(term, ranks=target, known=known, day=day, num_days=3, min_names=3)
    torch.testing.assert_close(run(-3.0 + 0.01 * prediction)[0], run(prediction)[0])


@rank_term
def test_a_perfect_ranking_is_the_best(term: Term) -> None:
    _, target, known, day = samples()
    run = partial(term, ranks=target, known=known, day=day, num_days=3, min_names=3)
    best = run(target)[0]
    assert (best > 0.98).all()
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        other = target + 0.5 * torch.randn(target.shape, generator=generator, dtype=target.dtype)
        assert (run(other)[0] <= best + 1e-12).all()


def test_mse_and_huber_are_least_at_the_label() -> None:
    _, target, known, day = samples()
    for term in BASE_TERMS.values():
        assert (term(target, target, known, day, num_days=3, min_names=3)[0] == 0).all()
        assert (term(target + 0.1, target, known, day, num_days=3, min_names=3)[0] > 0).all()


@any_term
def test_days_are_never_mixed(term: Term) -> None:
    prediction, target, known, day = samples()
    together, _ = term(prediction, target, known, day, num_days=3, min_names=3)
    for number in range(3):
        mine = day == number
        alone, _ = term(prediction[mine], target[mine], known[mine], day[mine] - number, num_days=1, min_names=3)
        torch.testing.assert_close(together[number], alone[0])


def test_pinball_is_its_definition_and_never_mixes_days() -> None:
    prediction, target, known, day = samples()
    levels = (0.2, 0.5, 0.7)
    quantiles = prediction.unsqueeze(-1) + torch.tensor([-0.5, 0.0, 0.5])
    value, _ = terms.pinball(quantiles, target, known, day, levels=levels, num_days=3, min_names=3)
    for number in range(3):
        total = 0.0
        for q, level in enumerate(levels):
            gap = (target - quantiles[..., q])[day == number]
            total = total + torch.where(gap > 0, level * gap, (level - 1) * gap).mean(dim=0) / 3
        torch.testing.assert_close(value[number], total)


@any_term
def test_unknown_samples_change_neither_value_nor_gradient(term: Term) -> None:
    prediction, target, known, day = samples((6, 5))
    known[2] = False
    target = torch.where(known, target, torch.nan)
    mine = prediction.clone().requires_grad_()
    value, _ = term(mine, target, known, day, num_days=2, min_names=3)
    value.sum().backward()
    assert mine.grad is not None
    assert (mine.grad[2] == 0).all()
    assert torch.isfinite(mine.grad).all()
    other = prediction.clone()
    other[2] = 1e6
    torch.testing.assert_close(term(other, target, known, day, num_days=2, min_names=3)[0], value.detach())


@any_term
def test_a_day_with_too_few_names_adds_nothing_and_is_counted(term: Term) -> None:
    prediction, target, known, day = samples((3, 6))
    prediction.requires_grad_()
    value, defined = term(prediction, target, known, day, num_days=2, min_names=4)
    assert defined.tolist() == [[False, False], [True, True]]
    assert (value[0] == 0).all()
    value.sum().backward()
    assert prediction.grad is not None
    assert (prediction.grad[:3] == 0).all()


@rank_term
@pytest.mark.parametrize("level", [0.0, 0.3, -1e4])
def test_a_constant_prediction_adds_nothing_and_is_counted(term: Term, level: float) -> None:
    prediction, target, known, day = samples((50, 6), dtype=torch.float32)
    prediction[:50, 0] = level
    prediction.requires_grad_()
    value, defined = term(prediction, target, known, day, num_days=2, min_names=3)
    assert defined.tolist() == [[False, True], [True, True]]
    assert value[0, 0] == 0
    value.sum().backward()
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()


@any_term
def test_pain_24_a_nan_prediction_is_not_hidden(term: Term) -> None:
    prediction, target, known, day = samples()
    prediction[0, 0] = torch.nan
    value, _ = term(prediction, target, known, day, num_days=3, min_names=3)
    assert torch.isnan(value[0, 0])
    assert torch.isfinite(value[1:]).all()


@any_term
def test_float32_whatever_the_input(term: Term) -> None:
    prediction, target, known, day = samples(dtype=torch.float32)
    value, _ = term(prediction.bfloat16(), target, known, day, num_days=3, min_names=3)
    assert value.dtype == torch.float32


def test_pearson_rank_of_ranks_is_spearman() -> None:
    prediction, target, known, day = samples((40, 30))
    value, _ = terms.pearson_rank(ranks(prediction, day), target, known, day, num_days=2, min_names=3)
    for number in range(2):
        mine = (day == number).numpy()
        for horizon in range(2):
            expected = spearmanr(prediction[mine, horizon].numpy(), target[mine, horizon].numpy()).statistic
            assert value[number, horizon].item() == pytest.approx(expected)


def test_pairwise_sigmoid_becomes_spearman_as_tau_vanishes() -> None:
    prediction, target, known, day = samples((40, 30), 1)
    known[3] = False
    value, _ = terms.pairwise_sigmoid(prediction, target, known, day, tau=1e-6, num_days=2, min_names=3)
    for number in range(2):
        mine = ((day == number) & known[:, 0]).numpy()
        # Unknown samples were ranked too, so the target's ranks are not 1 … n: Pearson of ranks with them is meant.
        expected = np.corrcoef(rankdata(prediction[mine, 0].numpy()), target[mine, 0].numpy())[0, 1]
        assert value[number, 0].item() == pytest.approx(expected, abs=1e-6)


def test_chunks_do_not_change_pairwise_sigmoid(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, target, known, day = samples()
    results = []
    for pairs in (terms.PAIRS_AT_ONCE, 50):
        monkeypatch.setattr(terms, "PAIRS_AT_ONCE", pairs)
        mine = prediction.clone().requires_grad_()
        value, _ = terms.pairwise_sigmoid(mine, target, known, day, tau=0.3, num_days=3, min_names=3)
        value.sum().backward()
        results.append((value.detach(), mine.grad))
    torch.testing.assert_close(results[0], results[1])


@rank_term
def test_pain_29_one_step_along_the_gradient_improves_the_ranking(term: Term) -> None:
    prediction, target, known, day = samples((60,), 1, torch.float32)
    prediction.requires_grad_()
    before, _ = term(prediction, target, known, day, num_days=1, min_names=3)
    before.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.norm() > 0
    after, _ = term(
        prediction.detach() + 0.5 * prediction.grad / prediction.grad.norm(),
        target,
        known,
        day,
        num_days=1,
        min_names=3,
    )
    assert after > before
