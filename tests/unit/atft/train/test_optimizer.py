import pytest
import torch
from torch import nn

from atft.spec.optimizer import OptimizerSpec
from atft.train.optimizer import make_optimizer, optimizer_evidence


def one_update(spec: OptimizerSpec) -> tuple[torch.optim.Optimizer, float]:
    parameter = nn.Parameter(torch.ones(3))
    made = make_optimizer(spec, [parameter])
    parameter.grad = torch.full((3,), 1.0)
    made.optimizer.step()
    return made.optimizer, float((1 - parameter.detach()).abs().max())


def test_pain_09_adabelief_is_the_package_s_and_its_evidence_holds(capfd: pytest.CaptureFixture[str]) -> None:
    optimizer, _ = one_update(OptimizerSpec(name="adabelief"))
    proof = optimizer_evidence(optimizer)
    assert proof["class"] == "adabelief_pytorch.AdaBelief.AdaBelief"
    assert proof["version"] == "0.2.1"
    assert proof["state_keys"] == ["exp_avg", "exp_avg_var", "step"]
    assert proof["rectify"] is True
    assert proof["weight_decouple"] is True
    groups = proof["param_groups"]
    assert groups == [{"lr": 5e-4, "betas": [0.9, 0.999], "eps": 1e-16, "weight_decay": 1e-4, "parameters": 1}]
    output = capfd.readouterr()
    assert output.out == output.err == ""


def test_adamw_is_torchs_and_its_evidence_holds() -> None:
    optimizer, _ = one_update(OptimizerSpec(name="adamw", betas=(0.8, 0.95), weight_decay=0.01, lr=0.1))
    proof = optimizer_evidence(optimizer)
    assert proof["class"] == "torch.optim.adamw.AdamW"
    assert proof["version"] == torch.__version__
    assert proof["state_keys"] == ["exp_avg", "exp_avg_sq", "step"]
    assert proof["param_groups"] == [
        {"lr": 0.1, "betas": [0.8, 0.95], "eps": 1e-8, "weight_decay": 0.01, "parameters": 1}
    ]


def test_before_an_update_there_are_no_state_keys() -> None:
    made = make_optimizer(OptimizerSpec(), [nn.Parameter(torch.ones(1))])
    assert optimizer_evidence(made.optimizer)["state_keys"] == []


def test_first_update_distinguishes_the_optimizers() -> None:
    """Rectified AdaBelief starts as plain momentum: the first update is lr·g; AdamW's is lr·sign(g)."""
    for gradient, expected in ((0.25, 0.25), (4.0, 4.0)):
        parameter = nn.Parameter(torch.ones(3))
        made = make_optimizer(OptimizerSpec(name="adabelief", lr=0.01, weight_decay=0.0), [parameter])
        parameter.grad = torch.full((3,), gradient)
        made.optimizer.step()
        torch.testing.assert_close(1 - parameter.detach(), torch.full((3,), 0.01 * expected))
    _, moved = one_update(OptimizerSpec(name="adamw", lr=0.01, weight_decay=0.0))
    assert moved == pytest.approx(0.01, rel=1e-5)


def test_eps_null_is_the_optimizers_own() -> None:
    for name, eps in (("adamw", 1e-8), ("adabelief", 1e-16)):
        made = make_optimizer(OptimizerSpec(name=name), [nn.Parameter(torch.ones(1))])
        assert made.optimizer.param_groups[0]["eps"] == eps
        made = make_optimizer(OptimizerSpec(name=name, eps=1e-5), [nn.Parameter(torch.ones(1))])
        assert made.optimizer.param_groups[0]["eps"] == 1e-5


def test_state_survives_a_weights_only_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name in ("adamw", "adabelief"):
        optimizer, _ = one_update(OptimizerSpec(name=name))
        torch.save(optimizer.state_dict(), tmp_path / name)
        fresh = make_optimizer(OptimizerSpec(name=name), [nn.Parameter(torch.ones(3))]).optimizer
        fresh.load_state_dict(torch.load(tmp_path / name, weights_only=True))
        assert str(fresh.state_dict()) == str(optimizer.state_dict())
