"""Learning-rate schedulers of torch, stepped once an epoch."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from atft.spec.training import SchedulerSpec


def make_scheduler(spec: SchedulerSpec, optimizer: Optimizer, *, max_epochs: int) -> LRScheduler:
    """The scheduler, at epoch 0. With `warmup_epochs` = w the first w epochs run at lr·1/(w+1) … lr·w/(w+1), then the
    schedule starts. An `eta_min` above lr counts as lr: no schedule rises above the requested rate.
    """
    if spec.warmup_epochs == 0:
        return _main(spec, optimizer, max_epochs)
    warmup = LinearLR(
        optimizer, start_factor=1 / (spec.warmup_epochs + 1), end_factor=1.0, total_iters=spec.warmup_epochs
    )
    return SequentialLR(
        optimizer, [warmup, _main(spec, optimizer, max_epochs - spec.warmup_epochs)], milestones=[spec.warmup_epochs]
    )


def _main(spec: SchedulerSpec, optimizer: Optimizer, epochs: int) -> LRScheduler:
    lr = float(optimizer.param_groups[0]["lr"])
    lowest = min(spec.eta_min, lr)
    if spec.name == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=1)
    if spec.name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=epochs, eta_min=lowest)
    if spec.name == "cosine_restarts":
        return CosineAnnealingWarmRestarts(optimizer, T_0=spec.t_0, T_mult=spec.t_mult, eta_min=lowest)
    # One step more than epochs: the cycle's last step has lr / 250,000.
    return OneCycleLR(optimizer, max_lr=lr, total_steps=epochs + 1, cycle_momentum=False)  # betas stay as requested


def scheduler_evidence(scheduler: LRScheduler, lr_by_epoch: list[float]) -> dict[str, object]:
    inner = getattr(scheduler, "_schedulers", [scheduler])
    paths = [f"{type(s).__module__}.{type(s).__qualname__}" for s in inner]
    return {"class": paths[-1], "sequence": paths, "lr_by_epoch": list(lr_by_epoch)}
