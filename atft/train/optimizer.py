"""Creates the optimizer of a spec, and its evidence."""

import contextlib
import importlib.metadata
import io
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from adabelief_pytorch import AdaBelief
from torch import nn
from torch.optim import AdamW, Optimizer

from atft.spec.training import OptimizerSpec
from atft.train.adabelief import ForeachAdaBelief

# torch.__version__ has the build (2.13.0+cu130); the package metadata may not
_VERSIONS = {
    "adabelief_pytorch": importlib.metadata.version("adabelief-pytorch"),
    "torch": str(torch.__version__),
    "atft": importlib.metadata.version("atft"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedOptimizer:
    optimizer: Optimizer
    printed: str  # what the package wrote to standard output while it was created


def make_optimizer(spec: OptimizerSpec, parameters: Iterable[nn.Parameter]) -> CreatedOptimizer:
    """Create the optimizer. AdamW is torch's fused form. AdaBelief, with decoupled decay and rectification, is the
    adabelief-pytorch package; on a GPU, where the package's dozen kernel launches per tensor dominate, our own
    multi-tensor version.

    Rectification makes AdaBelief's first 5 updates plain SGD with momentum (Zhuang et al. 2020, arXiv 2010.07468).
    """
    parameters = list(parameters)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        optimizer: Optimizer
        if spec.name == "adabelief" and parameters[0].is_cuda:
            optimizer = ForeachAdaBelief(
                parameters,
                lr=spec.lr,
                betas=spec.betas,
                eps=spec.resolved_eps,
                weight_decay=spec.weight_decay,
            )
        elif spec.name == "adabelief":
            optimizer = AdaBelief(
                parameters,
                lr=spec.lr,
                betas=spec.betas,
                eps=spec.resolved_eps,
                weight_decay=spec.weight_decay,
                weight_decouple=True,
                rectify=True,
                print_change_log=False,
            )
        else:
            optimizer = AdamW(
                parameters,
                lr=spec.lr,
                betas=spec.betas,
                eps=spec.resolved_eps,
                weight_decay=spec.weight_decay,
                fused=True,
            )
    return CreatedOptimizer(optimizer=optimizer, printed=" ".join(output.getvalue().split()))


def optimizer_evidence(optimizer: Optimizer) -> dict[str, object]:
    """Evidence read from the optimizer object, not from the spec.

    State keys are empty before the first update.
    """
    kind = type(optimizer)
    package = kind.__module__.split(".", 1)[0]
    keys = sorted({str(key) for state in optimizer.state.values() for key in state})
    names = ("lr", "betas", "eps", "weight_decay")
    groups: list[dict[str, object]] = [
        {
            **{name: list(group[name]) if name == "betas" else group[name] for name in names},
            "parameters": len(group["params"]),
        }
        for group in optimizer.param_groups
    ]
    switches = {name: getattr(optimizer, name) for name in ("rectify", "weight_decouple") if hasattr(optimizer, name)}
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "module": kind.__module__,
        "version": _VERSIONS[package],
        "state_keys": keys,
        "param_groups": groups,
        **switches,
    }
