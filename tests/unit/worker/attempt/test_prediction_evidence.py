"""Evidence of a prediction compared with its spec: each difference is reported with its path."""

from copy import deepcopy
from typing import Any

import pytest

from atft.spec.prediction import PredictSpec
from jobs.db.tables import Job
from jobs.states import JobKind
from worker.attempt.prediction_evidence import differences

SPEC = PredictSpec.model_validate(
    {"model": "m", "dataset": "d", "from_day": "2020-01-01", "to_day": "2020-01-31", "resources": {"threads": 2}}
)
ASKED = SPEC.model_dump(mode="json")
JOB = Job(
    kind=JobKind.PREDICT,
    dataset_fingerprint="f00d",
    params={"model": {"weights": "best.safetensors", "sha256": "ab", "spec_digest": "cd", "features_sha256": "ef"}},
)
EVIDENCE: dict[str, Any] = {
    "requested": ASKED,
    "resolved": ASKED | {"fold": 1, "resources": ASKED["resources"] | {"device": "cpu"}},
    "model": {"weights": "best.safetensors", "sha256": "ab", "spec_digest": "cd"},
    "data": {"fingerprint": "f00d", "features_sha256": "ef", "days": ["2020-01-02", "2020-01-03"]},
    "threads": {"limit": 2, "torch_num_threads": 2, "os_threads_peak": 6},
    "device": "cpu",
    "precision": "float32",
    "rows": 40,
    "rows_scored": 38,
}


def test_matching_prediction_evidence_has_no_difference() -> None:
    assert differences(SPEC, EVIDENCE, job=JOB, threads=2) == []


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("model.sha256", "00", "SHA-256"),
        ("model.weights", "best.2.safetensors", "weights"),
        ("model.spec_digest", "00", "the model's spec"),
        ("data.features_sha256", "00", "features"),
        ("data.fingerprint", "00", "fingerprint"),
        ("data.days", [], "days"),
        ("data.days", ["2019-12-31", "2020-01-02"], "days"),
        ("data.days", ["2020-01-02", "2020-02-01"], "days"),
        ("data.days", ["2020-01-03", "2020-01-02"], "days"),
        ("resolved.to_day", "2020-01-30", "to_day"),
        ("requested.model", "n", "model"),
        ("threads.torch_num_threads", 3, "torch_num_threads"),
        ("threads.os_threads_peak", 30, "os_threads_peak"),
        ("precision", "bfloat16", "precision"),
        ("rows_scored", 41, "rows_scored"),
        ("rows", None, "evidence.rows"),
    ],
)
def test_a_difference_is_named(path: str, value: object, named: str) -> None:
    altered = deepcopy(EVIDENCE)
    *parents, last = path.split(".")
    parent = altered
    for key in parents:
        parent = parent[key]
    parent[last] = value
    found = differences(SPEC, altered, job=JOB, threads=2)
    assert len(found) == 1
    assert named in found[0]
