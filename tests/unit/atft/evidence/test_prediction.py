"""Evidence of a prediction compared with its spec: each difference is reported with its field."""

from typing import Any

import pytest

from atft.evidence.comparison import Given
from atft.evidence.prediction import differences
from atft.spec.base import digest
from atft.spec.prediction import PredictSpec

SPEC = PredictSpec.model_validate(
    {"model": "m", "dataset": "d", "from_day": "2020-01-01", "to_day": "2020-01-31", "resources": {"threads": 2}}
)
ASKED = SPEC.model_dump(mode="json")
RESOLVED = ASKED | {"fold": 1, "resources": ASKED["resources"] | {"device": "cpu"}}
GIVEN = Given(fingerprint="f00d", threads=2, environment={"OMP_NUM_THREADS": "2"})
WEIGHTS = {"weights": "best.safetensors", "sha256": "ab", "spec_digest": "cd", "features_sha256": "ef", "folder": "x"}
EVIDENCE: dict[str, Any] = {
    "requested": ASKED,
    "requested_digest": SPEC.digest(),
    "resolved": RESOLVED,
    "resolved_digest": digest(RESOLVED),
    "model": {
        "weights": "best.safetensors", "sha256": "ab", "spec_digest": "cd", "fingerprint": "f00d",
        "last_day": "2020-01-02",
    },
    "data": {
        "fingerprint": "f00d", "features_sha256": "ef", "days": ["2020-01-02", "2020-01-03"], "num_rows": 90,
        "num_features": 3, "horizons": [1], "num_learned_days": 2,
    },
    "threads": {
        "limit": 2, "env": {"OMP_NUM_THREADS": "2"}, "torch_num_threads": 2, "torch_num_interop_threads": 1,
        "os_threads_peak": 6,
    },
    "device": "cpu",
    "device_name": "test",
    "versions": {},
    "host": "here",
    "precision": "float32",
    "micro_batch_days": 2,
    "git": None,
    "rows": 40,
    "rows_scored": 38,
}  # fmt: skip


def test_matching_prediction_evidence_has_no_difference() -> None:
    assert differences(SPEC, EVIDENCE, GIVEN, WEIGHTS) == []


@pytest.mark.parametrize(
    "days", [[], ["2019-12-31", "2020-01-02"], ["2020-01-02", "2020-02-01"], ["2020-01-03", "2020-01-02"]]
)
def test_days_outside_the_request_are_a_difference(days: list[str]) -> None:
    evidence = EVIDENCE | {"data": EVIDENCE["data"] | {"days": days, "num_learned_days": min(2, len(days))}}
    assert any(one.startswith("data.days: ") for one in differences(SPEC, evidence, GIVEN, WEIGHTS))


def test_a_missing_and_an_unknown_part_are_differences() -> None:
    evidence = {name: value for name, value in EVIDENCE.items() if name != "rows"} | {"more": 1}
    assert [one.partition(":")[0] for one in differences(SPEC, evidence, GIVEN, WEIGHTS)] == [
        "evidence.rows",
        "evidence.more",
    ]
