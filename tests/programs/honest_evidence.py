"""The evidence that an honest run of a training spec would give, without the run."""

import os
from typing import Any

from atft.spec.base import digest, mix
from atft.spec.job import TrainSpec

NUM_FEATURES = 5
STEPS, SAMPLES = 3, 90
VARIABLES = ("OMP_NUM_THREADS", "MALLOC_ARENA_MAX")


def days(start: int, count: int) -> list[str]:
    """Not a calendar: dates in order are all that matters."""
    return [f"{2000 + n // 336}-{n % 336 // 28 + 1:02}-{n % 28 + 1:02}" for n in range(start, start + count)]


def honest_evidence(body: dict[str, object], fingerprint: str, epochs: int = 1) -> dict[str, Any]:
    spec = TrainSpec.model_validate(body)
    requested = spec.model_dump(mode="json")
    eps, threads = spec.optimizer.resolved_eps, spec.resources.threads
    train_days = spec.split.train_days or 300
    features = [f"f{n}" for n in range(NUM_FEATURES)]
    resolved = {
        **requested,
        "data": {**requested["data"], "features": features},
        "split": {**requested["split"], "train_days": train_days},
        "optimizer": {**requested["optimizer"], "eps": eps},
        "trainer": {**requested["trainer"], "precision": "float32"},
        "resources": {**requested["resources"], "device": "cpu"},
    }
    state = {"adamw": ["exp_avg", "exp_avg_sq", "step"], "adabelief": ["exp_avg", "exp_avg_var", "step"]}
    classes = {"adamw": "torch.optim.adamw.AdamW", "adabelief": "adabelief_pytorch.AdaBelief.AdaBelief"}
    name, sizes = spec.optimizer.name, spec.parameter_sizes(NUM_FEATURES)
    group = {
        "lr": spec.scheduler.learning_rate(spec.optimizer.lr, epochs, spec.trainer.max_epochs)
        if epochs < spec.trainer.max_epochs
        else spec.optimizer.lr,
        "betas": list(spec.optimizer.betas),
        "eps": eps,
        "weight_decay": spec.optimizer.weight_decay,
        "parameters": sum(map(len, sizes.values())),
    }
    scheduler = "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"
    gap, val, test = spec.split.embargo_days, spec.split.val_days, spec.split.test_days
    rest = train_days + gap + val + gap
    return {
        "requested": requested,
        "requested_digest": spec.digest(),
        "resolved": resolved,
        "resolved_digest": digest(resolved),
        "optimizer": {
            "class": classes[name],
            "module": classes[name].rpartition(".")[0],
            "version": "1.0",
            "state_keys": state[name],
            "param_groups": [group],
            **({"rectify": True, "weight_decouple": True} if name == "adabelief" else {}),
        },
        "scheduler": {"class": scheduler, "sequence": [scheduler], "lr_by_epoch": [spec.optimizer.lr] * epochs},
        "threads": {
            "limit": threads,
            "env": {variable: os.environ.get(variable) for variable in VARIABLES},
            "torch_num_threads": threads,
            "torch_num_interop_threads": 1,
            "os_threads_peak": threads + 3,
        },
        "device": "cpu",
        "device_name": "test",
        "versions": {},
        "host": "here",
        "precision": "float32",
        "compiled": spec.trainer.compile,
        "ema_decay": spec.trainer.ema_decay,
        "data": {
            "fingerprint": fingerprint,
            "num_rows": 1000,
            "num_features": NUM_FEATURES,
            "features_sha256": digest(features),
            "allowed_leaks": [],
            "reader": "mapped",
            "reader_dtype": "float32",
            "horizons": list(spec.data.horizons),
            "train_days": days(0, train_days),
            "val_days": days(train_days + gap, val),
            "test_days": days(rest, test),
            "purged_days": days(train_days, gap) + days(train_days + gap + val, gap),
            "embargo_days": gap,
        },
        "init_from": None,
        "modules": {name: {"parameters": sum(own), "grad_norm_first_step": 0.1} for name, own in sizes.items()},
        "parameters": spec.num_parameters(NUM_FEATURES),
        "updates": STEPS * epochs,
        "batches_per_epoch": STEPS,
        "samples_per_epoch": SAMPLES,
        "batches_by_epoch": [STEPS] * epochs,
        "samples_by_epoch": [SAMPLES] * epochs,
        "days_per_step": 100,
        "micro_batch_days": 100,
        "accumulate": spec.trainer.accumulate,
        "seeds": {
            "seed": spec.seed,
            "step": "sha256(seed, epoch, step)",
            "torch_initial_seed": mix(spec.seed, epochs - 1, STEPS - 1),
        },
        "git": None,
        "memory": {"needed_bytes": 1, "free_bytes": 2, "fits": True, "rss_peak_bytes": 1},
    }
