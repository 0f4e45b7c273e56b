"""Checks of a prediction's evidence: weights, features, dataset and days against the request."""

from collections.abc import Iterator
from datetime import date
from typing import Final

from atft.spec.prediction import PredictSpec
from jobs.db.tables import Job, Json
from worker.attempt.evidence import (
    EXTRA_OS_THREADS,
    BaseEvidence,
    Difference,
    EvidenceModel,
    Threads,
    differences_from_request,
)

OPEN_FIELDS: Final = frozenset({"fold", "resources.device", "resources.queue"})


class _ModelEvidence(EvidenceModel):
    weights: str
    sha256: str
    spec_digest: str


class _DataEvidence(EvidenceModel):
    fingerprint: str
    features_sha256: str
    days: tuple[date, ...]


class PredictionEvidence(BaseEvidence):
    model: _ModelEvidence
    data: _DataEvidence
    threads: Threads
    device: str
    precision: str
    rows: int
    rows_scored: int


def differences(spec: PredictSpec, evidence: Json, *, job: Job, threads: int) -> list[str]:
    """Every difference between request and evidence; `job.params` has the weights chosen at submission."""
    return differences_from_request(
        PredictionEvidence,
        spec,
        evidence,
        OPEN_FIELDS,
        lambda observed: _fact_differences(spec, observed, job, threads),
    )


def _fact_differences(spec: PredictSpec, observed: PredictionEvidence, job: Job, threads: int) -> Iterator[Difference]:
    model: Json = (job.params or {}).get("model", {})
    facts: dict[str, tuple[object, object]] = {
        "weights": (model.get("weights"), observed.model.weights),
        "the weights' SHA-256": (model.get("sha256"), observed.model.sha256),
        "the model's spec": (model.get("spec_digest"), observed.model.spec_digest),
        "the features' SHA-256": (model.get("features_sha256"), observed.data.features_sha256),
        "dataset fingerprint": (job.dataset_fingerprint, observed.data.fingerprint),
        "precision": ("float32", observed.precision),
        "resources.threads": (threads, observed.threads.limit),
        "threads.torch_num_threads": (threads, observed.threads.torch_num_threads),
    }
    for field, (expected, found) in facts.items():
        if expected != found:
            yield field, expected, found
    days = observed.data.days
    if not days or days != tuple(sorted(set(days))) or days[0] < spec.from_day or days[-1] > spec.to_day:
        yield "days", f"trading days from {spec.from_day} to {spec.to_day}", [str(day) for day in days[:3]]
    if observed.device == "cpu" and observed.threads.os_threads_peak > threads + EXTRA_OS_THREADS:
        yield "threads.os_threads_peak", f"at most {threads + EXTRA_OS_THREADS}", observed.threads.os_threads_peak
    if not 0 <= observed.rows_scored <= observed.rows:
        yield "rows_scored", f"at most {observed.rows}", observed.rows_scored
