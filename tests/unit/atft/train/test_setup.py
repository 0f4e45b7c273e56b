from collections.abc import Callable

import pytest
import torch

from atft.data.cache.reader import Cache
from atft.spec.job import TrainSpec
from atft.train import setup as train_setup
from atft.train.report import Reporter, RunError
from atft.train.setup import (
    TrainingSetup,
    checkpoint_identity,
    choose_autocast,
    choose_device,
    has_bfloat16_lstm,
    make_setup,
)

Make = Callable[..., TrainSpec]


def training_setup(spec: TrainSpec, cache: Cache) -> TrainingSetup:
    return make_setup(spec, cache, Reporter(lambda _: None, epochs=1))


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)  # torch's own, at import
def test_compile_compiles_and_keeps_the_weights_names(make_spec: Make, cache: Cache) -> None:
    """torch compiles at the first call, which takes minutes on a CPU: only that compilation is configured."""
    plain, compiled = training_setup(make_spec(), cache), training_setup(make_spec(**{"trainer.compile": True}), cache)
    assert plain.network._compiled_call_impl is None
    assert compiled.network._compiled_call_impl is not None
    assert list(plain.network.state_dict()) == list(compiled.network.state_dict())


def test_the_moving_average_is_what_is_evaluated(make_spec: Make, cache: Cache) -> None:
    setup = training_setup(make_spec(**{"trainer.ema_decay": 0.5}), cache)
    assert setup.evaluation_network is not setup.network
    assert list(setup.evaluation_network.state_dict()) == list(setup.network.state_dict())
    plain = training_setup(make_spec(), cache)
    assert plain.evaluation_network is plain.network


def test_resolved_has_no_auto_and_no_null_that_was_decided(make_spec: Make, cache: Cache) -> None:
    resolved = training_setup(make_spec(**{"split.train_days": None, "resources.device": "auto"}), cache).resolved()
    assert resolved.trainer.precision in {"float32", "bfloat16"}
    assert resolved.resources.device in {"cpu", "cuda"}
    assert resolved.optimizer.eps == 1e-8
    assert resolved.data.features == (*cache.feature_names, *cache.market_names)
    assert resolved.split.train_days is not None


def test_checkpoint_identity_ignores_what_changes_no_number(make_spec: Make, cache: Cache) -> None:
    same = {
        "name": "x",
        "tags": {"a": "b"},
        "resources.priority": 1,
        "trainer.checkpoint_every_seconds": 7.0,
        "trainer.timeout_seconds": 9.0,
    }
    base = checkpoint_identity(training_setup(make_spec(), cache))
    assert checkpoint_identity(training_setup(make_spec(**same), cache)) == base
    assert checkpoint_identity(training_setup(make_spec(seed=1), cache)) != base
    fewer = checkpoint_identity(training_setup(make_spec(**{"data.features": ["signal_1"]}), cache))
    assert fewer["features_sha256"] != base["features_sha256"]


def test_cpu_is_cpu_even_where_there_is_a_gpu() -> None:
    assert choose_device("cpu") == torch.device("cpu")


def test_bfloat16_is_refused_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert (choose_autocast("auto", cpu), choose_autocast("float32", cpu)) == (None, None)
    monkeypatch.setattr(train_setup, "has_bfloat16_lstm", lambda: False)
    with pytest.raises(RunError, match=r"trainer\.precision is bfloat16, .*: use float32 or auto"):
        choose_autocast("bfloat16", cpu)
    monkeypatch.setattr(train_setup, "has_bfloat16_lstm", lambda: True)
    assert choose_autocast("bfloat16", cpu) is torch.bfloat16


def test_looking_for_bfloat16_draws_no_random_number() -> None:
    before = torch.random.get_rng_state()
    has_bfloat16_lstm()
    assert torch.equal(torch.random.get_rng_state(), before)
