"""Reference values of pytorch-forecasting, pytorch-optimizer and adabelief-pytorch, printed as JSON; run in their own
environment.

It imports none of our modules. `make parity` runs it again; `stored_torch.json` is its stored output.
"""

import contextlib
import importlib.metadata
import io
import json
import sys
import warnings

import torch

warnings.simplefilter("ignore")
NAMES = ("torch", "pytorch-forecasting", "pytorch_optimizer", "adabelief-pytorch")


def numbers(tensor: torch.Tensor) -> list:
    return [round(v, 9) for v in tensor.detach().double().flatten().tolist()]


def weights(module: torch.nn.Module) -> dict[str, list]:
    return {name: numbers(value) for name, value in module.state_dict().items()}


def gated_residual(context_size: int | None) -> dict:
    from pytorch_forecasting.models.temporal_fusion_transformer.sub_modules import GatedResidualNetwork

    torch.manual_seed(1)
    network = GatedResidualNetwork(6, 5, 6, dropout=0.0, context_size=context_size).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    x = torch.randn(4, 6)
    context = torch.randn(4, context_size) if context_size else None
    out = network(x, context) if context_size else network(x)
    return {
        "weights": weights(network),
        "x": numbers(x),
        "context": numbers(context) if context is not None else None,
        "out": numbers(out),
    }


def attention(heads: int) -> dict:
    from pytorch_forecasting.models.temporal_fusion_transformer.sub_modules import InterpretableMultiHeadAttention

    torch.manual_seed(2)
    network = InterpretableMultiHeadAttention(n_head=heads, d_model=8, dropout=0.0).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, 7, 8)  # stock, day, hidden
    out, _ = network(x[:, -1:], x, x)
    return {"weights": weights(network), "x": numbers(x), "out": numbers(out[:, 0])}


def adabelief(library: str, *, rectify: bool, weight_decay: float, steps: int = 40) -> dict:
    torch.manual_seed(3)
    parameter = torch.nn.Parameter(torch.randn(6))
    start, gradients = numbers(parameter), torch.randn(steps, 6)
    common = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-16, "weight_decay": weight_decay, "rectify": rectify}
    with contextlib.redirect_stdout(io.StringIO()):
        if library == "adabelief-pytorch":
            from adabelief_pytorch import AdaBelief

            optimizer = AdaBelief([parameter], weight_decouple=True, print_change_log=False, **common)
        else:
            from pytorch_optimizer import AdaBelief

            optimizer = AdaBelief([parameter], weight_decouple=True, degenerated_to_sgd=True, **common)
    path = []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        path.append(numbers(parameter))
    return {
        "start": start,
        "gradients": numbers(gradients),
        "rectify": rectify,
        "weight_decay": weight_decay,
        "path": [*path[::13], path[-1]],
        "at": [*range(0, steps, 13), steps - 1],
    }


def main() -> None:
    cases = {
        "gated_residual": gated_residual(None),
        "gated_residual_with_context": gated_residual(3),
        "attention_of_1_head": attention(1),
        "attention_of_2_heads": attention(2),
    }
    for library in ("adabelief-pytorch", "pytorch_optimizer"):
        for rectify in (True, False):
            cases[f"{library}, rectify {rectify}"] = adabelief(library, rectify=rectify, weight_decay=0.01)
    versions = {name: importlib.metadata.version(name) for name in NAMES}
    json.dump({"command": "python tests/parity/reference_torch.py", "versions": versions, "cases": cases}, sys.stdout)


if __name__ == "__main__":
    main()
