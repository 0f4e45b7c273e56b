"""Creates the optimizer of a spec, and its evidence."""

import contextlib
import importlib.metadata
import io
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from atft.spec.optimizer import OptimizerSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedOptimizer:
    optimizer: Optimizer
    printed: str  # what the package wrote to standard output while it was created


def make_optimizer(spec: OptimizerSpec, parameters: Iterable[nn.Parameter]) -> CreatedOptimizer:
    """Create the optimizer of the spec, as its row in `atft.spec.optimizer` says for the parameters' device."""
    parameters = list(parameters)
    chosen = spec.row.class_on(parameters[0].device.type)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        optimizer: Optimizer = pkgutil.resolve_name(chosen.path)(
            parameters,
            lr=spec.lr,
            betas=spec.betas,
            eps=spec.resolved_eps,
            weight_decay=spec.weight_decay,
            **chosen.arguments,
        )
    return CreatedOptimizer(optimizer=optimizer, printed=" ".join(output.getvalue().split()))


def optimizer_evidence(optimizer: Optimizer) -> dict[str, object]:
    """Evidence read from the optimizer object, not from the spec.

    State keys are empty before the first update.
    """
    kind = type(optimizer)
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
        "version": _version(kind.__module__.partition(".")[0]),
        "state_keys": keys,
        "param_groups": groups,
        **switches,
    }


def _version(package: str) -> str:
    """The package's version; torch's own has the build (2.13.0+cu130), which its metadata may lack."""
    return str(torch.__version__) if package == "torch" else importlib.metadata.version(package)
