"""AdaBelief (Zhuang et al. 2020, arXiv 2010.07468) over lists of tensors: the numbers of the adabelief-pytorch package
(0.2.1, decoupled weight decay) to 1e-6, in a dozen kernels per update instead of per tensor, and capturable in
CUDA graphs.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

STATE = ("exp_avg", "exp_avg_var")


class ForeachAdaBelief(Optimizer):
    """AdaBelief over lists of tensors.

    `rectify`: as in RAdam, the first updates (5 at β₂ = .999) are SGD with momentum. `capturable` keeps the count of
    updates on the parameters' device, so that a captured update increments it.
    """

    weight_decouple = True

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        rectify: bool = True,
        capturable: bool = False,
    ) -> None:
        self.rectify = rectify
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "capturable": capturable}
        )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters that have a gradient; the others get no weight decay and no step count."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in self._by_step(group):
                self._update(group, parameters)
        return loss

    def _by_step(self, group: dict[str, Any]) -> list[list[Tensor]]:
        """The group's parameters that have a gradient, grouped by step count: equal counts have equal factors."""
        together: dict[float, list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                device = parameter.device if group["capturable"] else "cpu"
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                state.update({name: torch.zeros_like(parameter) for name in STATE})
            count = (
                -1.0 if group["capturable"] else float(state["step"])
            )  # reading a count from the device would break the capture
            together.setdefault(count, []).append(parameter)
        return list(together.values())

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        steps = [self.state[p]["step"] for p in parameters]
        mean = [self.state[p]["exp_avg"] for p in parameters]
        variance = [self.state[p]["exp_avg_var"] for p in parameters]
        torch._foreach_add_(steps, 1.0)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(mean, gradients, 1 - beta1)
        deviation = torch._foreach_sub(gradients, mean)
        torch._foreach_mul_(variance, beta2)
        torch._foreach_addcmul_(variance, deviation, deviation, value=1 - beta2)
        torch._foreach_add_(variance, group["eps"])  # kept in the state, as in the package
        denominator = list(torch._foreach_sqrt(variance))
        if group["capturable"]:
            self._apply_captured(group, parameters, mean, denominator, torch.stack(steps).double())
        else:
            self._apply(group, parameters, mean, denominator, float(steps[0]))

    def _apply(
        self, group: dict[str, Any], parameters: list[Tensor], mean: list[Tensor], denominator: list[Tensor], t: float
    ) -> None:
        beta1, beta2 = group["betas"]
        first, second = 1 - beta1**t, 1 - beta2**t
        if not self.rectify:
            torch._foreach_div_(denominator, math.sqrt(second))
            torch._foreach_add_(denominator, group["eps"])
            torch._foreach_addcdiv_(parameters, mean, denominator, value=-group["lr"] / first)
            return
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * t * (1 - second) / second
        if length < 5:
            torch._foreach_add_(parameters, mean, alpha=-group["lr"] / first)
            return
        factor = math.sqrt(second * (length - 4) / (longest - 4) * (length - 2) / length * longest / (longest - 2))
        torch._foreach_add_(denominator, group["eps"])
        torch._foreach_addcdiv_(parameters, mean, denominator, value=-group["lr"] * factor / first)

    def _apply_captured(
        self, group: dict[str, Any], parameters: list[Tensor], mean: list[Tensor], denominator: list[Tensor], t: Tensor
    ) -> None:
        """The same without reading the step count on the host: `p += m · (plain + adaptive / denominator)`,
        one of the two factors is 0."""
        beta1, beta2 = group["betas"]
        first, second = (-torch.expm1(t * math.log(beta)) for beta in (beta1, beta2))
        plain, adaptive = torch.zeros_like(t), -group["lr"] / first
        if self.rectify:
            longest = 2 / (1 - beta2) - 1
            length = longest - 2 * t * (1 - second) / second
            inner = second * (length - 4) / (longest - 4) * (length - 2) / length * longest / (longest - 2)
            plain = torch.where(length < 5, adaptive, 0.0)
            adaptive = torch.where(length < 5, 0.0, adaptive * inner.clamp_min(0).sqrt())
        else:
            torch._foreach_div_(denominator, list(second.sqrt().to(denominator[0].dtype).unbind()))
        torch._foreach_add_(denominator, group["eps"])
        torch._foreach_reciprocal_(denominator)
        torch._foreach_mul_(denominator, list(adaptive.to(denominator[0].dtype).unbind()))
        torch._foreach_add_(denominator, list(plain.to(denominator[0].dtype).unbind()))
        torch._foreach_addcmul_(parameters, mean, denominator)
