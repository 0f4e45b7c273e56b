"""Evidence of what actually ran, read from the objects in use: the body of `GET /jobs/{id}/evidence`."""

import importlib.metadata
import platform
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from atft.data.cache.reader import Cache
from atft.data.cache.splits import Split, consecutive_runs
from atft.evidence.models import BaselineEvidence, TrainingEvidence
from atft.train.optimizer import optimizer_evidence
from atft.train.scheduler import scheduler_evidence
from atft.train.seed import thread_environment
from atft.train.setup import TrainingSetup, features_sha256
from atft.train.state import RunState

PACKAGES = (
    "torch",
    "torch_geometric",
    "numpy",
    "pyarrow",
    "adabelief-pytorch",
    "lightgbm",
    "scipy",
    "statsmodels",
    "safetensors",
    "pydantic",
)


ROLES = ("train", "val", "test", "purged")


def evidence(
    setup: TrainingSetup,
    state: RunState,
    *,
    os_threads_peak: int,
    git: dict[str, object] | None,
    memory: dict[str, object],
    baselines: Mapping[str, Sequence[BaselineEvidence]],
) -> TrainingEvidence:
    """The evidence of a run.

    `batches_by_epoch` and `samples_by_epoch` have one number per started epoch. With several folds the values by epoch
    are those of the current fold; `folds` has them for each, and `data.folds` their days. An ensemble has `members`
    instead of `folds`, on the same days.
    """
    resolved, requested, fold = setup.resolved(), setup.requested, state.fold
    several = "folds" if setup.ensemble is None else "members"
    body = {
        "requested": requested.model_dump(mode="json"),
        "requested_digest": requested.digest(),
        "resolved": resolved.model_dump(mode="json"),
        "resolved_digest": resolved.digest(),
        "optimizer": optimizer_evidence(setup.optimizer),
        "scheduler": scheduler_evidence(setup.scheduler, fold.lr_by_epoch),
        **runtime_environment(setup.device, setup.spec.resources.threads, os_threads_peak),
        "precision": setup.precision,
        "compiled": setup.network._compiled_call_impl is not None,
        "ema_decay": setup.spec.trainer.ema_decay if setup.ema is not None else None,
        "data": _data(setup),
        "init_from": setup.initial_weights.evidence() if setup.initial_weights is not None else None,
        "modules": _modules(setup, fold.gradient_norms),
        "parameters": sum(p.numel() for p in setup.network.parameters()),
        "updates": state.updates,
        "batches_per_epoch": max((n for one in state.folds for n in one.batches_by_epoch), default=0),
        "samples_per_epoch": max((n for one in state.folds for n in one.samples_by_epoch), default=0),
        "batches_by_epoch": fold.batches_by_epoch,
        "samples_by_epoch": fold.samples_by_epoch,
        **({several: _folds(state)} if len(setup.splits) > 1 else {}),
        "days_per_step": setup.days_per_step,
        "micro_batch_days": state.micro_batch_days,
        "accumulate": setup.spec.trainer.accumulate,
        "seeds": {
            "seed": setup.spec.seed,
            "step": "sha256(seed, epoch, step)",
            "torch_initial_seed": torch.initial_seed(),
        },
        "git": git,
        "memory": memory,
        **({"baselines": baselines} if baselines else {}),
    }
    return TrainingEvidence.model_validate(body)


def runtime_environment(device: torch.device, threads: int, os_threads_peak: int) -> dict[str, object]:
    """Evidence of the runtime environment of any job: `threads`, `device`, `device_name`, `versions`, `host`."""
    return {
        "threads": {
            "limit": threads,
            "env": thread_environment(),
            "torch_num_threads": torch.get_num_threads(),
            "torch_num_interop_threads": torch.get_num_interop_threads(),
            "os_threads_peak": os_threads_peak,
        },
        "device": device.type,
        "device_name": _device_name(device),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "host": socket.gethostname(),
    }


def git_state() -> dict[str, object] | None:
    """Commit of this code's checkout; None when there is no checkout or no git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        sha = _git(root, "rev-parse", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"sha": sha, "dirty": dirty}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", "-c", f"safe.directory={root}", "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def _data(setup: TrainingSetup) -> dict[str, object]:
    """Evidence of the data; with several folds a day list has the days used so in any fold."""
    cache, splits = setup.cache, setup.splits
    return {
        "fingerprint": cache.fingerprint,
        "num_rows": len(cache.day_index),
        "num_features": setup.reader.num_features,
        "features_sha256": features_sha256(setup.reader.feature_names),
        "allowed_leaks": cache.manifest.build_spec.get("allow_leaks", []),
        "reader": setup.reader.row_store.kind,
        "reader_dtype": str(setup.reader.row_store.dtype).removeprefix("torch."),
        "horizons": list(setup.spec.data.horizons),
        **{
            f"{role}_days": [
                str(day) for day in cache.days[np.unique(np.concatenate([getattr(split, role) for split in splits]))]
            ]
            for role in ROLES
        },
        "embargo_days": setup.split.embargo_days,
        **({"folds": [_fold_days(cache, one) for one in splits]} if len(splits) > 1 and setup.ensemble is None else {}),
    }


def _fold_days(cache: Cache, split: Split) -> dict[str, object]:
    """A fold's days by role, as spans of consecutive trading days."""

    def spans(days: npt.NDArray[np.int64]) -> list[dict[str, object]]:
        parts = [part for part in consecutive_runs(days) if len(part)]
        return [
            {"first": str(cache.days[part[0]]), "last": str(cache.days[part[-1]]), "num_days": len(part)}
            for part in parts
        ]

    return {role: spans(getattr(split, role)) for role in ROLES}


def _folds(state: RunState) -> list[dict[str, object]]:
    return [
        {
            "seed": fold.seed,
            "lr_by_epoch": fold.lr_by_epoch,
            "batches_by_epoch": fold.batches_by_epoch,
            "samples_by_epoch": fold.samples_by_epoch,
            "grad_norm_first_step": fold.gradient_norms,
            "best_epoch": fold.best_epoch or None,
            "ending": fold.end_message or None,
        }
        for fold in state.folds
    ]


def _modules(setup: TrainingSetup, gradient_norms: Mapping[str, float]) -> dict[str, object]:
    return {
        name: {"parameters": count, "grad_norm_first_step": gradient_norms.get(name)}
        for name, child in setup.network.named_children()
        if (count := sum(p.numel() for p in child.parameters()))
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
