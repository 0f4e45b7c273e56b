"""Whether the scores are those that were asked for: these weights, these features, this dataset, these days."""

from collections.abc import Iterator
from datetime import date
from typing import Final

from atft.spec.prediction import PredictSpec
from jobs.db.tables import Job, Json
from worker.attempt.evidence import EXTRA_OS_THREADS, Claims, Difference, Part, Threads, held_against

OPEN: Final = frozenset({"fold", "resources.device", "resources.queue"})


class _Model(Part):
    weights: str
    sha256: str
    spec_digest: str


class _Data(Part):
    fingerprint: str
    features_sha256: str
    days: tuple[date, ...]


class _Observed(Claims):
    model: _Model
    data: _Data
    threads: Threads
    device: str
    precision: str
    rows: int
    rows_scored: int


def differences(spec: PredictSpec, evidence: Json, *, job: Job, threads: int) -> list[str]:
    """As `verify.differences`; `job.params` has the weights that the submit chose."""
    return held_against(_Observed, spec, evidence, OPEN, lambda seen: _facts(spec, seen, job, threads))


def _facts(spec: PredictSpec, seen: _Observed, job: Job, threads: int) -> Iterator[Difference]:
    model: Json = (job.params or {}).get("model", {})
    facts: dict[str, tuple[object, object]] = {
        "weights": (model.get("weights"), seen.model.weights),
        "the weights' SHA-256": (model.get("sha256"), seen.model.sha256),
        "the model's spec": (model.get("spec_digest"), seen.model.spec_digest),
        "the features' SHA-256": (model.get("features_sha256"), seen.data.features_sha256),
        "dataset fingerprint": (job.dataset_fingerprint, seen.data.fingerprint),
        "precision": ("float32", seen.precision),
        "resources.threads": (threads, seen.threads.limit),
        "threads.torch_num_threads": (threads, seen.threads.torch_num_threads),
    }
    for field, (wanted, found) in facts.items():
        if wanted != found:
            yield field, wanted, found
    days = seen.data.days
    if not days or days != tuple(sorted(set(days))) or days[0] < spec.from_day or days[-1] > spec.to_day:
        yield "days", f"trading days from {spec.from_day} to {spec.to_day}", [str(day) for day in days[:3]]
    if seen.device == "cpu" and seen.threads.os_threads_peak > threads + EXTRA_OS_THREADS:
        yield "threads.os_threads_peak", f"at most {threads + EXTRA_OS_THREADS}", seen.threads.os_threads_peak
    if not 0 <= seen.rows_scored <= seen.rows:
        yield "rows_scored", f"at most {seen.rows}", seen.rows_scored
