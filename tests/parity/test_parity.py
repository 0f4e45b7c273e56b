"""Our layers, optimizer and metrics equal those of well-known libraries.

The reference values are stored (`stored_*.json`, with the versions that computed them); where the environments of
`setup.sh` exist, they are computed again and must be equal.
"""

import contextlib
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from atft.metrics import inference, portfolio, rank
from atft.model.selection import GatedResidual
from atft.model.temporal import LastDayAttention
from atft.spec.optimizer import OptimizerSpec
from atft.train.adabelief import ForeachAdaBelief
from atft.train.optimizer import make_optimizer

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / "var" / "parity"


def stored(name: str) -> dict[str, Any]:
    return dict(json.loads((HERE / f"stored_{name}.json").read_text())["cases"])


TORCH, FINANCE = stored("torch"), stored("finance")


def tensor(numbers: list[float], *shape: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64).view(*shape)


def load(module: nn.Module, weights: dict[str, tuple[list[float], tuple[int, ...]]]) -> None:
    module.double().load_state_dict({name: tensor(values, *shape) for name, (values, shape) in weights.items()})


@pytest.mark.parametrize("name", ["torch", "finance"])
def test_the_references_still_compute_the_stored_numbers(name: str) -> None:
    python = ENVIRONMENTS / name / "bin" / "python"
    if not (ENVIRONMENTS / name / "ready").exists():
        pytest.skip(f"no environment var/parity/{name}: `make parity` makes it")
    output = subprocess.run([python, HERE / f"reference_{name}.py"], capture_output=True, text=True, check=True).stdout
    assert_close(json.loads(output)["cases"], stored(name))


def assert_close(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(found[key], value)
    elif expected is None or isinstance(expected, bool):
        assert found is expected
    else:
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["gated_residual", "gated_residual_with_context"])
def test_the_gated_residual_network_is_pytorch_forecastings(case: str) -> None:
    """Equal input and output sizes only: else the library's skip connection has a layer norm of its own."""
    theirs, size = TORCH[case]["weights"], 6
    context = 3 if TORCH[case]["context"] else 0
    ours = GatedResidual(input_size=size, hidden_size=5, output_size=size, context_size=context)
    names = {
        "enter.weight": ("fc1.weight", (5, size)),
        "enter.bias": ("fc1.bias", (5,)),
        "inner.weight": ("fc2.weight", (5, 5)),
        "inner.bias": ("fc2.bias", (5,)),
        "gate.weight": ("gate_norm.glu.fc.weight", (2 * size, 5)),
        "gate.bias": ("gate_norm.glu.fc.bias", (2 * size,)),
        "norm.weight": ("gate_norm.add_norm.norm.weight", (size,)),
        "norm.bias": ("gate_norm.add_norm.norm.bias", (size,)),
        **({"context.weight": ("context.weight", (5, context))} if context else {}),
    }
    load(ours, {name: (theirs[other], shape) for name, (other, shape) in names.items()})
    x = tensor(TORCH[case]["x"], 4, size)
    out = ours(x, tensor(TORCH[case]["context"], 4, context)) if context else ours(x)
    torch.testing.assert_close(out, tensor(TORCH[case]["out"], 4, size), rtol=0, atol=3e-6)


@pytest.mark.parametrize(("case", "heads"), [("attention_of_1_head", 1), ("attention_of_2_heads", 2)])
def test_the_attention_is_pytorch_forecastings_with_its_shared_value(case: str, heads: int) -> None:
    """The library shares one value over all heads and averages them: ours with equal values and an averaging output
    matrix. Its key bias adds the same to every day; ours has none.
    """
    theirs, size = TORCH[case]["weights"], 8 // heads
    ours = LastDayAttention(window=7, hidden_size=8, heads=heads).double()

    def every_head(kind: str, part: str) -> torch.Tensor:
        names = [f"{kind}_layer" if kind == "v" else f"{kind}_layers.{head}" for head in range(heads)]
        return torch.cat([tensor(theirs[f"{name}.{part}"], size, -1) for name in names])

    with torch.no_grad():
        ours.position.zero_()
        ours.recency.zero_()
        for layer, kind in ((ours.query, "q"), (ours.key, "k"), (ours.value, "v")):
            layer.weight.copy_(every_head(kind, "weight"))
        ours.query.bias.copy_(every_head("q", "bias").flatten())
        ours.value.bias.copy_(every_head("v", "bias").flatten())
        ours.out.weight.copy_(tensor(theirs["w_h.weight"], 8, size).repeat(1, heads) / heads)
        ours.out.bias.zero_()
    out = ours(tensor(TORCH[case]["x"], 3, 7, 8).transpose(0, 1).contiguous())
    torch.testing.assert_close(out, tensor(TORCH[case]["out"], 3, 8), rtol=0, atol=3e-6)


@pytest.mark.parametrize("library", ["adabelief-pytorch", "pytorch_optimizer"])
@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("form", ["the one in use", "foreach", "capturable"])
def test_adabelief_follows_the_updates_of_the_libraries(library: str, rectify: bool, form: str) -> None:
    case = TORCH[f"{library}, rectify {rectify}"]
    parameter = nn.Parameter(tensor(case["start"], -1).float())
    if form == "the one in use":
        if not rectify:
            pytest.skip("the one in use always rectifies")
        spec = OptimizerSpec(name="adabelief", lr=0.01, weight_decay=case["weight_decay"])
        with contextlib.redirect_stdout(io.StringIO()):
            optimizer = make_optimizer(spec, [parameter]).optimizer
    else:
        optimizer = ForeachAdaBelief(
            [parameter],
            lr=0.01,
            betas=(0.9, 0.999),
            eps=1e-16,
            weight_decay=case["weight_decay"],
            rectify=rectify,
            capturable=form == "capturable",
        )
    expected = dict(zip(case["at"], case["path"], strict=True))
    for step, gradient in enumerate(tensor(case["gradients"], -1, 6).float()):
        parameter.grad = gradient
        optimizer.step()
        if step in expected:
            torch.testing.assert_close(parameter.detach(), tensor(expected[step], -1).float(), rtol=0, atol=1e-6)


def test_rank_ic_is_alphalens() -> None:
    case = FINANCE["information_coefficients"]
    days = len(case["rank_ic"])
    ours = rank.daily_rank_ic(
        np.array(case["scores"]),
        np.array(case["targets"]),
        np.repeat(np.arange(days), case["stocks"]),
        num_days=days,
        min_names=2,
    )
    np.testing.assert_allclose(ours, case["rank_ic"], rtol=0, atol=1e-14)


def test_sharpe_and_drawdown_are_empyricals() -> None:
    case = FINANCE["returns"]
    values = np.array(case["returns"])
    assert portfolio.sharpe(values, 252.0) == pytest.approx(case["sharpe"], rel=0, abs=1e-13)
    assert portfolio.max_drawdown(values) == pytest.approx(case["max_drawdown"], rel=0, abs=1e-14)


def test_newey_west_is_statsmodels_regression_on_a_constant() -> None:
    case = FINANCE["newey_west"]
    values = np.array(case["values"])
    for horizon in (5, 10, 20):
        lag = inference.newey_west_lag(len(values), horizon)
        assert inference.newey_west_t(values, horizon) == pytest.approx(case["t"][str(lag)], rel=1e-10)
