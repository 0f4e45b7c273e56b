"""The body of `GET /jobs/{id}/evidence`: what the child sent, by kind of job, and what a rerun added. With examples."""

from typing import Any, Final

from pydantic import BaseModel, Field

from api.http import examples
from atft.evidence.models import (
    BaselinesEvidence,
    BuildEvidence,
    EarlyEvidence,
    EvidenceModel,
    PredictionEvidence,
    TrainingEvidence,
)


class MetricDrift(EvidenceModel):
    """A metric that differs between a rerun and its source: its points, and its last value in each."""

    name: str
    points: int
    different_points: int
    first_step: int
    largest_difference: float | None = Field(description="null where a value is undefined or missing in one of them")
    source: float | None
    rerun: float | None


class Drift(EvidenceModel):
    """The differences between a rerun and its source; in a pair, the source's value is first."""

    source_job_id: str
    equal: bool
    points: int
    different_points: int
    different_metrics: int
    metrics: list[MetricDrift]
    baselines: dict[str, tuple[float | None, float | None]]
    weights_equal: bool | None
    dataset_fingerprint: tuple[str | None, str | None]
    environment: dict[str, list[Any]]


class RunEvidence(TrainingEvidence):
    """Evidence of a training, pretraining or ensemble. Values by epoch are those of the current fold or member;
    `folds` and `members` have them for each.
    """

    drift: Drift | None = Field(None, description="only in a succeeded rerun")


class BaselinesJobEvidence(BaselinesEvidence):
    """Evidence of a job of baselines: what each was fitted on, for each fold."""

    drift: Drift | None = Field(None, description="only in a succeeded rerun")


class DatasetEvidence(BuildEvidence):
    """Evidence of a dataset's build."""

    drift: Drift | None = Field(None, description="only in a succeeded rerun")


EvidenceView = RunEvidence | PredictionEvidence | DatasetEvidence | BaselinesJobEvidence | EarlyEvidence

_SHA256: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_NORMS: Final = {"selection": 0.027, "fan": 0.0016, "temporal": 0.026, "graph": 0.0073, "heads": 0.39}
_ENVIRONMENT: Final = {
    "threads": {
        "limit": 1, "env": {"OMP_NUM_THREADS": "1"}, "torch_num_threads": 1, "torch_num_interop_threads": 1,
        "os_threads_peak": 4,
    },
    "device": "cpu",
    "device_name": "x86_64",
    "versions": {"python": "3.11.7", "torch": "2.13.0+cpu"},
    "host": "host-1",
    "precision": "float32",
    "micro_batch_days": 8,
    "git": {"sha": "74347c298fb09b7e98cd41a76d41cd10d19ceb6c", "dirty": False},
}  # fmt: skip
_SCHEDULER: Final = "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"
_FOLD: Final = {
    "seed": 0, "lr_by_epoch": [0.0005], "batches_by_epoch": [63], "samples_by_epoch": [250_000],
    "grad_norm_first_step": _NORMS, "best_epoch": 1, "ending": "val/rank_ic has not improved for 5 epochs",
}  # fmt: skip
_DRIFT: Final[dict[str, Any]] = {
    "source_job_id": examples.JOB_ID, "equal": False, "points": 90, "different_points": 3, "different_metrics": 1,
    "metrics": [
        {"name": "train/loss", "points": 3, "different_points": 3, "first_step": 1, "largest_difference": 1e-7,
         "source": 0.49, "rerun": 0.4900001}
    ],
    "baselines": {}, "weights_equal": False, "dataset_fingerprint": [examples.FINGERPRINT, examples.FINGERPRINT],
    "environment": {"device_name": ["x86_64", "aarch64"]},
}  # fmt: skip
TRAINING: Final[dict[str, Any]] = {
    "requested": examples.TRAIN,
    "requested_digest": "0d4f7be2a9c15e38",
    "resolved": examples.TRAIN,
    "resolved_digest": "5e1073db3ea3481d",
    **_ENVIRONMENT,
    "optimizer": {
        "class": "adabelief_pytorch.AdaBelief.AdaBelief",
        "module": "adabelief_pytorch.AdaBelief",
        "version": "0.2.1",
        "state_keys": ["exp_avg", "exp_avg_var", "step"],
        "param_groups": [
            {"lr": 0.0001625, "betas": [0.9, 0.999], "eps": 1e-16, "weight_decay": 0.0001, "parameters": 52}
        ],
        "rectify": True,
        "weight_decouple": True,
    },
    "scheduler": {"class": _SCHEDULER, "sequence": [_SCHEDULER], "lr_by_epoch": [0.0005, 0.0003875, 0.0001625]},
    "compiled": False,
    "ema_decay": None,
    "data": {
        "fingerprint": examples.FINGERPRINT,
        "num_rows": 1_006_500,
        "num_features": 2,
        "features_sha256": "ce7727969ce460ea",
        "allowed_leaks": [],
        "reader": "mapped",
        "reader_dtype": "float32",
        "horizons": [1, 5, 10, 20],
        "train_days": ["2021-02-03", "2021-02-04"],
        "val_days": ["2021-03-08"],
        "test_days": ["2021-04-07"],
        "purged_days": ["2021-02-05"],
        "embargo_days": 21,
    },
    "init_from": {
        "job_id": examples.JOB_ID, "task": "masked", "files": {"best.safetensors": _SHA256},
        "loaded": ["fan.describe.bias"], "left": ["heads.out.bias"],
    },
    "modules": {name: {"parameters": 422, "grad_norm_first_step": norm} for name, norm in _NORMS.items()},
    "parameters": 148_212,
    "updates": 189,
    "batches_per_epoch": 63,
    "samples_per_epoch": 250_000,
    "batches_by_epoch": [63, 63, 63],
    "samples_by_epoch": [250_000, 250_000, 250_000],
    "days_per_step": 8,
    "accumulate": 1,
    "seeds": {"seed": 0, "step": "sha256(seed, epoch, step)", "torch_initial_seed": 4172174915857095206},
    "memory": {
        "needed_bytes": 326_184_152, "free_bytes": 18_075_033_600, "fits": True, "rss_peak_bytes": 577_007_616
    },
}  # fmt: skip
PREDICTION: Final[dict[str, Any]] = {
    "requested": {"model": examples.JOB_ID, "dataset": "us_2010_2017"},
    "requested_digest": "ab2a16ba2b66a984",
    "resolved": {"model": examples.JOB_ID, "dataset": "us_2010_2017", "fold": 1},
    "resolved_digest": "42d7676b2f3c73e5",
    **_ENVIRONMENT,
    "model": {
        "spec_digest": "0d4f7be2a9c15e38", "fingerprint": examples.FINGERPRINT, "weights": "best.safetensors",
        "sha256": _SHA256, "last_day": "2021-03-08",
    },
    "data": {
        "fingerprint": examples.FINGERPRINT, "num_rows": 1_006_500, "num_features": 2,
        "features_sha256": "ce7727969ce460ea", "horizons": [1, 5, 10, 20], "days": ["2021-04-07"],
        "num_learned_days": 1,
    },
    "rows": 500,
    "rows_scored": 498,
}  # fmt: skip
_DROPPED: Final = {
    "file": "panel.csv", "num_rows": 1, "cells": {"close": 1},
    "message": "1 bad cells: column 'close' is not a number in 1 rows, such as row 101 2020-01-10 B03: '#REF!'",
}  # fmt: skip
_BUILD: Final = {
    "versions": {"python": "3.11.7", "polars": "2.1.0"}, "host": "host-1", "dropped_rows": [_DROPPED], "drift": None
}  # fmt: skip
_BASELINE: Final = {
    "days_share": 1.0, "rows_share": 0.997, "columns": 128, "penalties": {"1": 0.01, "5": 0.1}, "no_signal": [],
    "seconds": 1.978,
}  # fmt: skip
EVIDENCE_EXAMPLES: Final[dict[str, Any]] = {
    "RunEvidence": TRAINING | {"drift": _DRIFT},
    "BaselinesJobEvidence": {"baselines": {"ridge": [_BASELINE]}, "drift": None},
    "BaselineEvidence": _BASELINE,
    "PredictionEvidence": PREDICTION,
    "DatasetEvidence": _BUILD,
    "DroppedRowsEvidence": _DROPPED,
    "EarlyEvidence": {"micro_batch_days": 8, "memory": TRAINING["memory"]},
    "Stretch": examples.STRETCH,
    "FoldDays": examples.FOLD_DAYS,
    "ParamGroup": TRAINING["optimizer"]["param_groups"][0],
    "OptimizerEvidence": TRAINING["optimizer"],
    "SchedulerEvidence": TRAINING["scheduler"],
    "ThreadsEvidence": _ENVIRONMENT["threads"],
    "DataEvidence": TRAINING["data"],
    "InitFromEvidence": TRAINING["init_from"],
    "ModuleEvidence": TRAINING["modules"]["fan"],
    "FoldEvidence": _FOLD,
    "SeedsEvidence": TRAINING["seeds"],
    "MemoryEvidence": TRAINING["memory"],
    "GitEvidence": _ENVIRONMENT["git"],
    "PredictionModel": PREDICTION["model"],
    "PredictionData": PREDICTION["data"],
    "Drift": _DRIFT,
    "MetricDrift": _DRIFT["metrics"][0],
}
EVIDENCE_MODELS: Final[tuple[type[BaseModel], ...]] = (
    RunEvidence, PredictionEvidence, DatasetEvidence, BaselinesJobEvidence, EarlyEvidence, Drift, MetricDrift,
)  # fmt: skip
