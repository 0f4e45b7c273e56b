"""The evidence that an honest run of a training spec would give, without the run."""

from atft.spec.job import TrainSpec
from atft.spec.model import num_parameters

NUM_FEATURES = 5


def days(start: int, count: int) -> list[str]:
    """Not a calendar: dates in order are all that matters."""
    return [f"{2000 + n // 336}-{n % 336 // 28 + 1:02}-{n % 28 + 1:02}" for n in range(start, start + count)]


def honest_evidence(body: dict[str, object], fingerprint: str, epochs: int = 1) -> dict[str, object]:
    spec = TrainSpec.model_validate(body)
    requested = spec.model_dump(mode="json")
    eps, threads = spec.optimizer.resolved_eps, spec.resources.threads
    train_days = spec.split.train_days or 300
    resolved = {
        **requested,
        "data": {**requested["data"], "features": [f"f{n}" for n in range(NUM_FEATURES)]},
        "split": {**requested["split"], "train_days": train_days},
        "optimizer": {**requested["optimizer"], "eps": eps},
        "trainer": {**requested["trainer"], "precision": "float32"},
        "resources": {**requested["resources"], "device": "cpu"},
    }
    first = {"adamw": ["exp_avg", "exp_avg_sq", "step"], "adabelief": ["exp_avg", "exp_avg_var", "step"]}
    classes = {"adamw": "torch.optim.adamw.AdamW", "adabelief": "adabelief_pytorch.AdaBelief.AdaBelief"}
    group = {
        "lr": spec.optimizer.lr,
        "betas": list(spec.optimizer.betas),
        "eps": eps,
        "weight_decay": spec.optimizer.weight_decay,
    }
    modules = ["selection", "temporal", "heads", *["fan"] * spec.model.use_fan, *["graph"] * spec.model.use_gat]
    gap, val, test = spec.split.embargo_days, spec.split.val_days, spec.split.test_days
    return {
        "requested": requested,
        "resolved": resolved,
        "optimizer": {
            "class": classes[spec.optimizer.name],
            "state_keys": first[spec.optimizer.name],
            "param_groups": [group],
        },
        "scheduler": {
            "class": "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts",
            "lr_by_epoch": [spec.optimizer.lr] * epochs,
        },
        "threads": {"limit": threads, "torch_num_threads": threads, "os_threads_peak": threads + 3},
        "device": "cpu",
        "device_name": "test",
        "precision": "float32",
        "compiled": spec.trainer.compile,
        "ema_decay": spec.trainer.ema_decay,
        "data": {
            "fingerprint": fingerprint,
            "num_features": NUM_FEATURES,
            "horizons": list(spec.data.horizons),
            "train_days": days(0, train_days),
            "val_days": days(train_days + gap, val),
            "test_days": days(train_days + 2 * gap + val, test),
            "embargo_days": gap,
        },
        "modules": {name: {"parameters": 1, "grad_norm_first_step": 0.1} for name in modules},
        "parameters": num_parameters(spec.model, NUM_FEATURES, len(spec.data.horizons), spec.data.window),
        "batches_per_epoch": 3,
        "accumulate": spec.trainer.accumulate,
        "seeds": {"seed": spec.seed},
    }
