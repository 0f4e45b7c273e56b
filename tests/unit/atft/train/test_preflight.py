import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from atft.data.cache.batch import Batch
from atft.data.cache.reader import Cache
from atft.events import Event, Progress
from atft.spec.job import TrainSpec
from atft.spec.reason import Reason
from atft.train import preflight as preflight_module
from atft.train.preflight import gradient_norms, preflight, require_compiler, require_gradients
from atft.train.report import Reporter, RunError
from atft.train.setup import TrainingSetup, make_setup

Make = Callable[..., TrainSpec]


def training_setup(spec: TrainSpec, cache: Cache) -> tuple[TrainingSetup, Reporter, list[Event]]:
    events: list[Event] = []
    reporter = Reporter(events.append, epochs=1)
    return make_setup(spec, cache, reporter), reporter, events


class WithIdlePart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(2, 1)
        self.idle = nn.Linear(2, 1)
        self.plain = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.plain(self.used(x)) + 0 * self.idle(x)


def test_pain_11_an_enabled_part_without_gradient_is_refused_by_name() -> None:
    network = WithIdlePart()
    network(torch.ones(3, 2)).sum().backward()
    norms = gradient_norms(network)
    assert set(norms) == {"used", "idle"}
    assert norms["idle"] == 0
    with pytest.raises(RunError, match="idle") as refused:
        require_gradients(norms)
    assert refused.value.reason is Reason.PREFLIGHT_FAILED
    with pytest.raises(RunError, match="temporal"):
        require_gradients({"heads": 1.0, "temporal": float("nan")})


def test_pain_39_one_day_forward_and_backward_before_the_first_step(make_spec: Make, cache: Cache) -> None:
    setup, reporter, _ = training_setup(make_spec(), cache)
    before = {name: tensor.clone() for name, tensor in setup.network.state_dict().items()}
    report = preflight(setup, reporter)
    assert set(report.gradient_norms) == {"selection", "fan", "temporal", "graph", "heads"}
    assert all(norm > 0 for norm in report.gradient_norms.values())
    assert report.parameters == sum(p.numel() for p in setup.network.parameters())
    assert report.micro_batch_days == setup.days_per_step
    assert report.activation_bytes_per_day > 1000
    assert all(torch.equal(tensor, before[name]) for name, tensor in setup.network.state_dict().items())
    assert all(p.grad is None for p in setup.network.parameters())
    assert not setup.optimizer.state


def test_randomness_is_off_so_that_a_skipped_part_does_not_look_unused(make_spec: Make, cache: Cache) -> None:
    spec = make_spec(
        **{"model.dropout": 0.9, "model.gat_dropout": 0.9, "model.freq_dropout": 0.9, "model.stochastic_depth": 0.99}
    )
    norms = []
    for seed in range(3):
        setup, reporter, _ = training_setup(spec, cache)
        torch.manual_seed(seed)
        norms.append(preflight(setup, reporter).gradient_norms)
    assert norms[0] == norms[1] == norms[2]


@pytest.mark.parametrize("switch", [{"model.use_gat": False}, {"model.use_fan": False}])
def test_switched_off_parts_are_not_there(switch: dict[str, Any], make_spec: Make, cache: Cache) -> None:
    setup, reporter, _ = training_setup(make_spec(**switch), cache)
    missing = "graph" if "model.use_gat" in switch else "fan"
    assert missing not in preflight(setup, reporter).gradient_norms


def test_slow_days_are_split_into_powers_of_two(make_spec: Make, cache: Cache) -> None:
    from atft.train.preflight import _micro_batch

    setup, _, _ = training_setup(make_spec(**{"trainer.batch_size": 20 * 24}), cache)
    whole = setup.days_per_step
    assert whole > 15
    assert [_micro_batch(setup, seconds, 0, 0) for seconds in (0.001, 0.5, 1.1, 2.0, 60.0)] == [whole, 8, 4, 2, 1]


class Uncompilable(nn.Module):
    """A module for a compiler that is missing; the real network cannot be traced under the tests' type checks."""

    def forward(self, batch: Batch) -> torch.Tensor:
        return torch.compile(lambda x: 2 * x, backend=self._broken)(batch.x)

    def _broken(self, _graph: object, _inputs: object) -> Callable[..., Any]:
        raise RuntimeError("no C++ compiler")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it traces
def test_a_network_that_cannot_be_compiled_is_refused_with_what_to_do(make_spec: Make, cache: Cache) -> None:
    setup, _, _ = training_setup(make_spec(), cache)
    batch = setup.reader.batch(setup.split.train[:1])
    setup.network = Uncompilable()  # type: ignore[assignment]
    with pytest.raises(RunError, match=r"set trainer\.compile to false") as refused:
        require_compiler(setup, batch, Reporter(lambda _: None, epochs=1))
    assert refused.value.reason is Reason.PREFLIGHT_FAILED


def test_progress_is_reported_while_a_compiler_runs(
    make_spec: Make, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without progress events the supervisor would report the run as stalled."""
    monkeypatch.setattr(preflight_module, "BEAT_SECONDS", 0.25)
    setup, _, _ = training_setup(make_spec(), cache)
    events: list[Event] = []

    class Slow(Uncompilable):
        def _broken(self, _graph: object, _inputs: object) -> Callable[..., Any]:
            time.sleep(1.5)
            raise RuntimeError("no C++ compiler")

    setup.network = Slow()  # type: ignore[assignment]
    with pytest.raises(RunError):
        require_compiler(setup, setup.reader.batch(setup.split.train[:1]), Reporter(events.append, epochs=1))
    assert len([one for one in events if isinstance(one, Progress)]) >= 3
