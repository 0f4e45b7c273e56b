import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from atft.spec.scheduler import SchedulerSpec
from atft.train.scheduler import make_scheduler, scheduler_evidence


def optimizer(lr: float = 1e-3) -> torch.optim.Optimizer:
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    return torch.optim.AdamW([parameter], lr=lr)


def rates(spec: SchedulerSpec, epochs: int, lr: float = 1e-3) -> list[float]:
    one = optimizer(lr)
    scheduler = make_scheduler(spec, one, max_epochs=epochs)
    seen = []
    for epoch in range(epochs):
        seen.append(float(one.param_groups[0]["lr"]))
        one.step()
        if epoch + 1 < epochs:
            scheduler.step()
    return seen


def test_cosine_restarts_equals_the_formula_and_torch() -> None:
    spec = SchedulerSpec(name="cosine_restarts", t_0=2, t_mult=2, eta_min=1e-4)
    wave = [1e-4 + (1e-3 - 1e-4) * (1 + math.cos(math.pi * i / period)) / 2 for period in (2, 4) for i in range(period)]
    assert rates(spec, 6) == pytest.approx(wave)
    one = optimizer()
    scheduler = CosineAnnealingWarmRestarts(one, T_0=2, T_mult=2, eta_min=1e-4)
    own = []
    for _ in range(6):
        own.append(float(one.param_groups[0]["lr"]))
        one.step()
        scheduler.step()
    assert rates(spec, 6) == own


def test_constant_cosine_and_one_cycle() -> None:
    assert rates(SchedulerSpec(name="constant"), 5) == [1e-3] * 5
    falling = rates(SchedulerSpec(name="cosine", eta_min=1e-5), 5)
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == 1e-3
    cycle = rates(SchedulerSpec(name="one_cycle"), 10)
    assert 0.95e-3 < max(cycle) <= 1e-3
    assert 0 < cycle.index(max(cycle)) < 5


@pytest.mark.parametrize("name", ["cosine", "cosine_restarts"])
def test_no_schedule_rises_above_the_requested_rate(name: Any) -> None:
    assert rates(SchedulerSpec(name=name, eta_min=5e-5), 9, lr=1e-5) == pytest.approx([1e-5] * 9)


@pytest.mark.parametrize("epochs", [1, 2, 3, 10])
def test_every_epoch_of_one_cycle_has_a_positive_rate(epochs: int) -> None:
    seen = rates(SchedulerSpec(name="one_cycle"), epochs)
    assert len(seen) == epochs
    assert min(seen) > 1e-3 / 50


def test_one_cycle_leaves_the_betas_alone() -> None:
    one = optimizer()
    make_scheduler(SchedulerSpec(name="one_cycle"), one, max_epochs=5)
    assert one.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("name", ["constant", "cosine", "cosine_restarts"])
def test_warmup_rises_in_equal_steps_and_then_the_schedule_starts(name: str) -> None:
    plain = rates(SchedulerSpec(name=name), 5)
    warm = rates(SchedulerSpec(name=name, warmup_epochs=3), 8)
    assert warm[:3] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3])
    assert warm[3:] == pytest.approx(plain)


@pytest.mark.parametrize("name", ["constant", "cosine", "cosine_restarts", "one_cycle"])
@pytest.mark.parametrize("warmup", [0, 2])
def test_a_reloaded_schedule_continues_equally(name: str, warmup: int, tmp_path) -> None:  # type: ignore[no-untyped-def]
    if name == "one_cycle" and warmup:
        return
    spec = SchedulerSpec(name=name, warmup_epochs=warmup)
    one = optimizer()
    scheduler = make_scheduler(spec, one, max_epochs=8)
    straight = rates(spec, 8)
    for _ in range(3):
        one.step()
        scheduler.step()
    torch.save({"o": one.state_dict(), "s": scheduler.state_dict()}, tmp_path / "x")
    saved = torch.load(tmp_path / "x", weights_only=True)
    two = optimizer()
    again = make_scheduler(spec, two, max_epochs=8)
    two.load_state_dict(saved["o"])
    again.load_state_dict(saved["s"])
    rest = []
    for epoch in range(3, 8):
        rest.append(float(two.param_groups[0]["lr"]))
        two.step()
        if epoch < 7:
            again.step()
    assert rest == straight[3:]


def test_pain_12_evidence_names_the_class_in_use() -> None:
    one = optimizer()
    scheduler = make_scheduler(SchedulerSpec(warmup_epochs=1), one, max_epochs=4)
    proof = scheduler_evidence(scheduler, [1e-3])
    assert proof["class"] == "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"
    assert proof["lr_by_epoch"] == [1e-3]
    with pytest.raises(ValueError, match="SCHEDULER_TYPE"):
        SchedulerSpec.model_validate({"SCHEDULER_TYPE": "constant"})


@pytest.mark.parametrize(
    ("name", "warmup", "epochs"),
    [
        (name, warmup, epochs)
        for name in ("constant", "cosine", "cosine_restarts", "one_cycle")
        for warmup in (0, 2)
        for epochs in (1, 2, 3, 7, 10)
        if warmup < epochs and not (warmup and name == "one_cycle")
    ],
)
def test_the_expected_rates_are_torchs(name: str, warmup: int, epochs: int) -> None:
    spec = SchedulerSpec.model_validate({"name": name, "warmup_epochs": warmup, "t_0": 2, "t_mult": 2, "eta_min": 1e-5})
    for epoch, rate in enumerate(rates(spec, epochs)):
        assert spec.learning_rate(1e-3, epoch, epochs) == pytest.approx(rate, rel=1e-6), epoch
