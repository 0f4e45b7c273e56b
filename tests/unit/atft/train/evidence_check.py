"""The check of a run's evidence that the service makes."""

import json
import os
from typing import Any

from atft.evidence.training import GivenTraining, GivenWeights, differences
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec


def evidence_differences(spec: RunSpec | EnsembleSpec, evidence: dict[str, Any]) -> list[str]:
    """The differences that the service would find, but for the number of threads, which is that of all tests."""
    resources = spec.base.resources if isinstance(spec, EnsembleSpec) else spec.resources
    source = evidence["init_from"]
    given = GivenTraining(
        fingerprint=evidence["data"]["fingerprint"],
        threads=resources.threads,
        environment=os.environ,
        weights=GivenWeights(task=source["task"], sha256=source["files"]) if source is not None else None,
    )
    found = differences(spec, json.loads(json.dumps(evidence)), given)
    return [one for one in found if not one.startswith("threads.os_threads_peak")]
