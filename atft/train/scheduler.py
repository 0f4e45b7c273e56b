"""Learning-rate schedulers of torch, stepped once an epoch."""

import pkgutil

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, SequentialLR

from atft.spec.scheduler import SchedulerSpec


def make_scheduler(spec: SchedulerSpec, optimizer: Optimizer, *, max_epochs: int) -> LRScheduler:
    """The scheduler, at epoch 0. With `warmup_epochs` = w the first w epochs run at lr·1/(w+1) … lr·w/(w+1), then the
    schedule starts.
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
    scheduler: LRScheduler = pkgutil.resolve_name(spec.row.class_path)(
        optimizer, **spec.row.arguments(spec, lr, epochs)
    )
    return scheduler


def scheduler_evidence(scheduler: LRScheduler, lr_by_epoch: list[float]) -> dict[str, object]:
    inner = getattr(scheduler, "_schedulers", [scheduler])
    paths = [f"{type(s).__module__}.{type(s).__qualname__}" for s in inner]
    return {"class": paths[-1], "sequence": paths, "lr_by_epoch": list(lr_by_epoch)}
