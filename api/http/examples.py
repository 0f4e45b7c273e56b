"""Examples in the OpenAPI document: plain data, validated against their models by a test."""

from typing import Any, Final

from atft.spec.metric import LEADING, RANK_IC, TEST, VAL, full_name

Example = dict[str, Any]
JOB_ID: Final = "019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21"
OTHER_JOB_ID: Final = "019aa6a5-3c40-7a12-b0de-64c2f1a97d05"
DATASET_JOB_ID: Final = "019aa6a1-02b8-7c31-8f77-6d1c9a4e5b10"
FINGERPRINT: Final = "5f0c6f3e9d1b4a27"
LEADING_5D: Final = full_name(VAL, RANK_IC, 5)
TEST_MEAN: Final = full_name(TEST, RANK_IC)
TEST_5D: Final = full_name(TEST, RANK_IC, 5)

TRAIN: Final[Example] = {
    "dataset": "us_2010_2017",
    "name": "adabelief, small",
    "data": {"window": 20, "horizons": [1, 5, 10, 20]},
    "split": {"train_days": 500, "val_days": 120, "test_days": 120, "embargo_days": 21},
    "model": {"hidden_size": 32},
    "optimizer": {"name": "adabelief", "lr": 5.0e-4},
    "trainer": {"max_epochs": 3, "batch_size": 4096},
}
PRETRAIN: Final[Example] = {
    **{field: TRAIN[field] for field in ("dataset", "data", "split", "model")},
    "name": "masked, small",
    "mask_ratio": 0.15,
    "contrast_weight": 0.1,
    "trainer": {"max_epochs": 20, "batch_size": 4096},
}
ENSEMBLE: Final[Example] = {"base": TRAIN, "seeds": [0, 1, 2, 3, 4]}
TRAIN_SMALLEST: Final[Example] = {"dataset": "us_2010_2017"}
DATASET_PATH: Final[Example] = {"name": "us_2010_2017", "path": "us_2010_2017.parquet"}
DATASET_PLANTED: Final[Example] = {
    "name": "planted-small",
    "horizons": [1, 5],
    "planted": {"num_codes": 60, "num_days": 400, "signal": 0.2, "seed": 0},
}

FIELD_ERROR: Final[Example] = {
    "detail": "Input should be greater than or equal to 1",
    "code": "greater_than_equal",
    "pointer": "/model/gat_layers",
    "parameter": None,
    "location": None,
}
PROBLEM: Final[Example] = {
    "type": "urn:atft:problem:invalid_request",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "/model/gat_layers: Input should be greater than or equal to 1",
    "instance": "/jobs/train",
    "code": "invalid_request",
    "request_id": "6f1b2c9d8e3a4f50b7c6d5e4f3a2b1c0",
    "errors": [FIELD_ERROR],
}
PROGRESS: Final[Example] = {
    "phase": "train",
    "epoch": 2,
    "epochs": 3,
    "step": 41,
    "steps": 50,
    "ratio": 0.61,
    "eta_seconds": 48.0,
    "samples_per_second": 5210.0,
}
LINKS: Final[Example] = {
    "self": f"/jobs/{JOB_ID}",
    "metrics": f"/jobs/{JOB_ID}/metrics",
    "events": f"/jobs/{JOB_ID}/events",
    "logs": f"/jobs/{JOB_ID}/logs",
    "evidence": f"/jobs/{JOB_ID}/evidence",
    "artifacts": f"/jobs/{JOB_ID}/artifacts",
    "cancel": f"/jobs/{JOB_ID}/cancel",
    "page": f"/ui/jobs/{JOB_ID}",
}
JOB: Final[Example] = {
    "id": JOB_ID,
    "kind": "train",
    "parent_id": None,
    "source_job_id": None,
    "name": "adabelief, small",
    "tags": {"desk": "tokyo"},
    "state": "running",
    "wanted": "run",
    "status": "running",
    "reason": None,
    "message": None,
    "attempt": 1,
    "max_attempts": 3,
    "priority": 5,
    "queue": "cpu",
    "dataset": "us_2010_2017",
    "dataset_fingerprint": FINGERPRINT,
    "spec": TRAIN,
    "spec_digest": "0d4f7be2a9c15e38",
    "progress": PROGRESS,
    "metrics": {LEADING: 0.031, LEADING_5D: 0.028, TEST_MEAN: None},
    "best": {"epoch": 2, "metrics": {LEADING: 0.034}},
    "pending_reason": None,
    "queue_position": None,
    "created_at": "2026-11-23T01:20:00.000Z",
    "started_at": "2026-11-23T01:20:01.250Z",
    "finished_at": None,
    "worker": "host-1/cpu/0",
    "actions": ["cancel", "pause", "priority", "promote", "compare"],
    "verdict": None,
    "baselines_job_id": None,
    "links": LINKS,
}
_NOT_LISTED: Final = ("spec", "verdict", "baselines_job_id")
JOB_SUMMARY: Final[Example] = {name: value for name, value in JOB.items() if name not in _NOT_LISTED} | {
    "metrics": {LEADING: 0.031, TEST_MEAN: None}
}
JOB_QUEUED: Final[Example] = {
    "state": "queued",
    "status": "queued",
    "attempt": 0,
    "progress": None,
    "metrics": {},
    "best": None,
    "pending_reason": "3 ahead",
    "queue_position": 3,
    "started_at": None,
    "worker": None,
}
STRETCH: Final[Example] = {"first": "2021-02-03", "last": "2023-01-30", "num_days": 500}
FOLD_DAYS: Final[Example] = {
    "train": [STRETCH],
    "val": [{"first": "2023-03-02", "last": "2023-08-22", "num_days": 120}],
    "test": [{"first": "2023-09-21", "last": "2024-03-14", "num_days": 120}],
    "purged": [
        {"first": "2023-01-31", "last": "2023-03-01", "num_days": 21},
        {"first": "2023-08-23", "last": "2023-09-20", "num_days": 21},
    ],
}
SPLIT: Final[Example] = {
    "kind": "walk_forward",
    "embargo_days": 21,
    "source": "evidence",
    "folds": [FOLD_DAYS],
    "figure": {"data": [{"type": "bar", "orientation": "h", "name": "training"}], "layout": {"barmode": "overlay"}},
}
PLAN: Final[Example] = {
    "spec": TRAIN,
    "spec_digest": "0d4f7be2a9c15e38",
    "warnings": [],
    "dataset_fingerprint": FINGERPRINT,
    "num_parameters": 148_212,
    "num_folds": 1,
    "num_members": 1,
    "epochs": 3,
    "days_per_step": 8,
    "steps_per_epoch": 63,
    "samples_per_epoch": 250_000,
    "num_train_days": 500,
    "num_val_days": 120,
    "num_test_days": 120,
    "folds": [FOLD_DAYS],
    "estimated_seconds": 144.0,
    "estimated_bytes": 5_335_632,
    "queue": "cpu",
    "queue_position": 0,
}
DATASET_PLAN: Final[Example] = {
    "spec": DATASET_PATH,
    "spec_digest": "7a3b9e10c2d4f658",
    "warnings": [],
    "inspection": {"kind": "prices", "num_rows": 1_006_532},
    "registered": ["us_2010_2017@1"],
}
SERIES: Final[Example] = {"step": [1, 2, 3], "value": [0.012, 0.034, None]}
BEST_EPOCH: Final[Example] = {
    "epoch": 2, "objective": LEADING, "value": 0.034, "metrics": {LEADING: 0.034}
}  # fmt: skip
METRICS: Final[Example] = {
    "job_id": JOB_ID,
    "state": "running",
    "attempt": 1,
    "latest": {LEADING: 0.031},
    "best": BEST_EPOCH,
    "baselines": {"ridge": {TEST_5D: 0.011}},
    "series": {LEADING: SERIES},
    "last_seq": 6,
}
EVENT: Final[Example] = {
    "job_id": JOB_ID,
    "seq": 7,
    "time": "2026-11-23T01:20:41.250Z",
    "body": {"step": 2, "values": {LEADING: 0.034}, "best": True},
}
SSE: Final = (
    "event: metrics\nid: 7\n"
    f'data: {{"job_id":"{JOB_ID}","seq":7,"time":"2026-11-23T01:20:41.250Z","body":'
    f'{{"step":2,"values":{{"{LEADING}":0.034}}}}}}\n\n'
    "event: progress\n"
    f'data: {{"job_id":"{JOB_ID}","seq":null,"time":"2026-11-23T01:20:42.000Z","body":{{"epoch":3,"ratio":0.7}}}}\n\n'
    "event: end\n"
    f'data: {{"job_id":"{JOB_ID}","seq":9,"time":"2026-11-23T01:21:30.000Z","body":'
    '{"state":"succeeded","reason":null}}\n\n'
)
LOGS: Final = (
    "2026-11-23T01:20:00.000Z [0] state queued\n2026-11-23T01:20:01.250Z [1] state running\n"
    "2026-11-23T01:20:04.100Z [1] info train 500 days, val 120, test 120\n"
)
ARTIFACT: Final[Example] = {
    "name": "best.safetensors",
    "size_bytes": 592_848,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "media_type": "application/octet-stream",
    "attempt": 1,
    "created_at": "2026-11-23T01:21:29.000Z",
    "link": f"/jobs/{JOB_ID}/artifacts/best.safetensors",
}
ORIGIN_FILE: Final[Example] = {
    "role": "panel",
    "name": "us_2010_2017.parquet",
    "size_bytes": 22_279_792,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
ORIGIN: Final[Example] = {
    "kind": "upload",
    "files": [ORIGIN_FILE],
    "source_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "by": "anonymous",
    "asked_at": "2026-11-23T01:18:02.000Z",
    "versions": {"python": "3.11.2", "atft": "0.1.0", "polars": "1.42.1"},
}
_VERSION: Final[Example] = {
    "version": 1,
    "fingerprint": FINGERPRINT,
    "size_bytes": 182_452_224,
    "job_id": DATASET_JOB_ID,
    "created_at": "2026-11-23T01:18:20.000Z",
}
DATASET_VERSION: Final[Example] = {
    **_VERSION,
    "num_jobs": 3,
    "num_unfinished_jobs": 1,
    "origin": ORIGIN,
    "link": "/datasets/us_2010_2017@1",
    "jobs": "/jobs?dataset=us_2010_2017@1",
}
DATASET_SUMMARY: Final[Example] = {
    **_VERSION,
    "name": "us_2010_2017",
    "num_days": 2013,
    "num_codes": 500,
    "num_rows": 1_006_500,
    "num_features": 2,
    "num_warnings": 0,
    "days": ["2010-01-04", "2017-12-29"],
    "horizons": [1, 5, 10, 20],
    "link": "/datasets/us_2010_2017",
    "page": "/ui/datasets/us_2010_2017",
}
DATASET: Final[Example] = {
    **DATASET_SUMMARY,
    "columns": ["return_1d", "return_5d"],
    "market_columns": [],
    "formulas": {"return_1d": "close(t) / close(t-1) - 1"},
    "normalisation": {"features": "per day over valid stocks"},
    "spec": DATASET_PATH,
    "profile": {"num_rows": 1_006_500},
    "leak_report": {"suspected": []},
    "versions": [DATASET_VERSION],
}
WORKER: Final[Example] = {
    "name": "host-1/cpu/0",
    "host": "host-1",
    "queue": "cpu",
    "device": "cpu",
    "busy_with": JOB_ID,
    "started_at": "2026-11-23T00:55:00.000Z",
    "last_seen": "2026-11-23T01:20:40.000Z",
    "live": True,
    "problem": None,
}
PROMETHEUS: Final = (
    'atft_jobs{kind="train",state="running"} 1.0\natft_queue_depth{queue="cpu"} 3.0\natft_database_up 1.0\n'
)

COMPARED: Final[Example] = {"num_days": 250, "state": "succeeded"}
COMPARISON: Final[Example] = {
    "metric": TEST_5D,
    "jobs": [
        {**COMPARED, "id": JOB_ID, "name": "adabelief", "mean": 0.031, "std": 0.11, "ic_t": 2.1},
        {**COMPARED, "id": OTHER_JOB_ID, "name": "adamw", "mean": 0.027, "std": 0.12, "ic_t": 1.8},
    ],
    "differences": {"optimizer.name": ["adabelief", "adamw"]},
    "fair": True,
    "unfair_because": [],
    "pairs": [
        {
            "a": JOB_ID,
            "b": OTHER_JOB_ID,
            "mean_difference": 0.004,
            "t": 1.2,
            "degrees_of_freedom": 15,
            "p_value": 0.25,
            "ci95": [-0.003, 0.011],
            "num_days": 250,
            "num_dropped": 0,
            "verdict": "insufficient evidence",
        }
    ],
    "model_confidence_set": None,
    "curves": {JOB_ID: {"step": [1, 2], "value": [0.021, 0.034]}},
}

HPO_SMALLEST: Final[Example] = {"base": TRAIN_SMALLEST}
HPO: Final[Example] = {
    "base": TRAIN,
    "space": {
        "optimizer.lr": {"kind": "float", "low": 1e-5, "high": 1e-3, "log": True},
        "model.hidden_size": {"kind": "categorical", "choices": [16, 32, 64]},
        "model.gat_layers": {"kind": "int", "low": 2, "high": 4},
    },
    "objective": {"metric": LEADING, "direction": "maximize"},
    "n_trials": 20,
    "parallelism": 2,
}
PARAMS: Final[Example] = {"optimizer.lr": 3.1e-4, "model.hidden_size": 32, "model.gat_layers": 2}
STUDY_PLAN: Final[Example] = {
    "spec": HPO,
    "spec_digest": "b2f7c0d1e4a39586",
    "warnings": [],
    "num_trials": 20,
    "low": PARAMS,
    "high": PARAMS,
    "trial": PLAN,
    "estimated_seconds": 1440.0,
}
TRIAL: Final[Example] = {
    "number": 3,
    "job_id": OTHER_JOB_ID,
    "params": PARAMS,
    "value": 0.034,
    "state": "succeeded",
    "reason": None,
    "message": None,
    "intermediate": {"1": 0.012, "2": 0.034},
    "created_at": "2026-01-05T09:30:00.000Z",
    "started_at": "2026-01-05T09:30:01.250Z",
    "finished_at": "2026-01-05T09:31:40.000Z",
}
BEST: Final[Example] = {
    "number": 3,
    "job_id": OTHER_JOB_ID,
    "params": PARAMS,
    "value": 0.034,
    "epoch": 2,
    "metrics": {LEADING: 0.034},
    "spec": TRAIN,
    "spec_digest": "0d4f7be2a9c15e38",
}
IMPORTANCE: Final[Example] = {
    "importance": {"optimizer.lr": 0.71, "model.hidden_size": 0.2, "model.gat_layers": 0.09},
    "num_trials": 18,
    "why": None,
}
KEY: Final[Example] = {
    "id": "019aa6a2-9c10-7c3f-b0a4-51f7be0c2d11",
    "name": "robot",
    "prefix": "atft_0123abcd",
    "scopes": ["jobs:read", "jobs:write"],
    "quota": {"jobs": 100},
    "created_at": "2025-11-21T09:30:00.000Z",
    "expires_at": "2026-11-21T09:30:00.000Z",
    "revoked_at": None,
    "last_used_at": None,
}
NEW_KEY: Final[Example] = {
    "name": "robot",
    "scopes": ["jobs:read", "jobs:write"],
    "expires_at": "2099-11-21T09:30:00Z",
    "quota": {"jobs": 100},
}
AUDIT: Final[Example] = {
    "id": 17,
    "time": "2025-11-21T09:30:00.000Z",
    "who": "key:019aa6a2-9c10-7c3f-b0a4-51f7be0c2d11",
    "action": "POST /jobs/train",
    "target": f"/jobs/{JOB_ID}",
    "request_id": "1d3c5f7a9b",
    "address": "127.0.0.1",
}
PROMOTE: Final[Example] = {"as": "train", "name": "best, 20 epochs", "trainer.max_epochs": 20}
