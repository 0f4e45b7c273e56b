import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from atft.data.builder.run import build
from atft.data.cache.reader import Cache
from atft.spec.data import DatasetSpec
from atft.spec.job import TrainSpec
from atft.train.evaluate import predict
from atft.train.report import Reporter
from atft.train.setup import TrainingSetup, has_bfloat16_lstm, make_setup
from atft.train.step import Stepper, Update
from atft.train.system_metrics import Timers

Make = Callable[..., TrainSpec]
STILL = {"model.dropout": 0.0, "model.gat_dropout": 0.0, "optimizer.clip_norm": None}


def fresh(make_spec: Make, cache: Cache, **changes: object) -> TrainingSetup:
    return make_setup(make_spec(**{**STILL, **changes}), cache, Reporter(lambda _: None, epochs=1))


def update(setup: TrainingSetup, runs: list[np.ndarray], micro: int, position: int = 0) -> Update:
    step = Stepper(setup, Timers(setup.device), micro_batch_days=micro, heartbeat=lambda _: None)
    return step(runs, epoch=0, position=position, first=True)


def gradients(setup: TrainingSetup) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in setup.network.named_parameters() if p.grad is not None}


def test_pain_28_micro_batches_of_whole_days_give_the_unsplit_steps_gradient(make_spec: Make, cache: Cache) -> None:
    results = []
    for micro in (6, 4, 1):
        setup = fresh(make_spec, cache)
        days = setup.split.train[:6]
        done = update(setup, [days], micro)
        results.append((done, gradients(setup)))
    whole, expected = results[0]
    for split, found in results[1:]:
        assert split.loss == pytest.approx(whole.loss, rel=1e-5)
        assert split.counted_days == whole.counted_days == 6
        assert split.samples == whole.samples
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=1e-6)


def test_accumulated_steps_give_the_mean_over_all_their_days(make_spec: Make, cache: Cache) -> None:
    one, two = fresh(make_spec, cache), fresh(make_spec, cache)
    days = one.split.train
    update(one, [days[:6]], 6)
    update(two, [days[:4], days[4:6]], 6)
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(gradients(two)[name], gradient, rtol=2e-3, atol=1e-6)


def test_a_day_without_enough_names_adds_nothing_and_is_counted(make_spec: Make, cache: Cache) -> None:
    sparse = Cache.open(cache.path)
    setup = fresh(make_spec, sparse)
    days = setup.split.train[:4]
    sparse.targets[np.isin(sparse.day_index, days[:2])] = np.nan
    done = update(setup, [days], 1)
    other = fresh(make_spec, sparse)
    rest = update(other, [days[2:]], 2)
    assert (done.counted_days, done.skipped_days) == (2, 2)
    assert done.loss == pytest.approx(rest.loss, rel=1e-5)
    for name, gradient in gradients(other).items():
        torch.testing.assert_close(gradients(setup)[name], gradient, rtol=2e-3, atol=1e-6)


def test_without_any_known_target_nothing_moves(make_spec: Make, cache: Cache) -> None:
    blind = Cache.open(cache.path)
    setup = fresh(make_spec, blind)
    blind.targets[:] = np.nan
    before = {name: p.detach().clone() for name, p in setup.network.named_parameters()}
    done = update(setup, [setup.split.train[:4]], 4)
    assert done.loss is None
    assert done.grad_norm is None
    assert all(torch.equal(p, before[name]) for name, p in setup.network.named_parameters())


def test_clip_norm_bounds_the_step_and_the_norm_is_reported_before_clipping(make_spec: Make, cache: Cache) -> None:
    free, bound = fresh(make_spec, cache), fresh(make_spec, cache, **{"optimizer.clip_norm": 1e-3})
    days = [free.split.train[:4]]
    first, second = update(free, days, 4), update(bound, days, 4)
    assert first.grad_norm == second.grad_norm
    norm = torch.sqrt(sum((g.double() ** 2).sum() for g in gradients(bound).values()))
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_a_steps_randomness_depends_on_seed_epoch_and_position_only(make_spec: Make, cache: Cache) -> None:
    losses = []
    for position in (0, 0, 1):
        setup = make_setup(make_spec(), cache, Reporter(lambda _: None, epochs=1))
        torch.rand(position + 7)
        losses.append(update(setup, [setup.split.train[:4]], 4, position=position).loss)
    assert losses[0] == losses[1] != losses[2]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """256 stocks: 64 days are a step of 16,384 samples, 128 one of 32,768."""
    folder = tmp_path_factory.mktemp("wide") / "cache"
    planted = {"num_codes": 256, "num_days": 230, "num_features": 4, "mode": "theory"}
    spec = {"name": "wide", "planted": planted, "horizons": [1]}
    build(DatasetSpec.model_validate(spec), folder, lambda _: None, lambda: False)
    return Cache.open(folder)


@pytest.mark.parametrize("accumulate", [4, 8])
def test_accumulated_steps_of_4096_are_one_step_of_16384_and_32768(
    accumulate: int, make_spec: Make, wide: Cache
) -> None:
    changes = {
        "data.window": 4,
        "data.horizons": [1],
        "split.train_days": 140,
        "split.embargo_days": 5,
        "trainer.batch_size": 4096,
        "trainer.accumulate": accumulate,
        "model.use_gat": False,
        "loss.rank_weight": 1.0,
        "optimizer.clip_norm": 1.0,
    }
    one, many = fresh(make_spec, wide, **changes), fresh(make_spec, wide, **changes)
    assert one.days_per_step == 16
    days = one.split.train[: 16 * accumulate]
    whole, summed = update(one, [days], len(days)), update(many, np.split(days, accumulate), 16)
    assert whole.samples == summed.samples == 4096 * accumulate
    assert summed.loss == pytest.approx(whole.loss, rel=1e-6)
    found = gradients(many)
    size = math.sqrt(sum(float(g.double().square().sum()) for g in gradients(one).values()))
    apart = math.sqrt(sum(float((g - found[n]).double().square().sum()) for n, g in gradients(one).items()))
    assert apart < 1e-6
    assert apart / size < 1e-5  # sums of 32,768 numbers in float32, in another order


def test_the_moving_average_follows_by_its_decay(make_spec: Make, cache: Cache) -> None:
    setup = fresh(make_spec, cache, **{"trainer.ema_decay": 0.75})
    days = setup.split.train
    update(setup, [days[:4]], 4)
    first = {name: p.detach().clone() for name, p in setup.network.named_parameters()}
    update(setup, [days[4:8]], 4)
    averages = dict(setup.evaluation_network.named_parameters())
    for name, parameter in setup.network.named_parameters():
        torch.testing.assert_close(averages[name], 0.75 * first[name] + 0.25 * parameter.detach())


@pytest.mark.skipif(not has_bfloat16_lstm(), reason="this processor has no LSTM in bfloat16")
def test_bfloat16_keeps_weights_losses_and_scores_in_float32(make_spec: Make, cache: Cache) -> None:
    half = fresh(make_spec, cache, **{"trainer.precision": "bfloat16"})
    full = fresh(make_spec, cache)
    days = half.split.train[:4]
    first, second = update(half, [days], 4), update(full, [days], 4)
    assert first.loss == pytest.approx(second.loss, rel=0.05)
    assert first.loss != second.loss
    assert {p.dtype for p in half.network.parameters()} == {torch.float32}
    assert {g.dtype for g in gradients(half).values()} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert half.network(half.reader.batch(days)).scores.dtype == torch.float32


def test_a_resident_panel_trains_and_predicts_like_a_memory_mapped_one(make_spec: Make, cache: Cache) -> None:
    """One code path: the same update and the same scores, bit for bit, on the run's training, validation, test days."""
    found = []
    for budget in (0, 2**30):
        setup = fresh(make_spec, cache)
        split = setup.split
        setup.reader.make_resident(
            np.concatenate([split.train, split.val, split.test]), allow_bfloat16=False, budget_bytes=budget
        )
        done = update(setup, [split.train[:6]], 6)
        parts = [
            predict(
                setup.network,
                setup.reader,
                setup.objective,
                days,
                micro_batch_days=2,
                heartbeat=lambda _: None,
            )[0].scores
            for days in (split.val, split.test)
        ]
        found.append((setup.reader.row_store.kind, done.loss_sum, np.concatenate(parts)))
    (one, loss, scores), (other, again, same) = found
    assert (one, other) == ("mapped", "resident")
    assert loss == again
    np.testing.assert_array_equal(scores, same)
