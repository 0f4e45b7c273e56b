"""Whether the scores are those that were asked for: these weights, these features, this dataset, these days."""

from collections.abc import Iterator
from datetime import date
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from atft.spec.prediction import PredictSpec
from jobs.tables import Job, Json
from worker.verify import EXTRA_OS_THREADS, Difference, Threads, unequal

OPEN: Final = frozenset({"fold", "resources.device", "resources.queue"})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Model(_Part):
    weights: str
    sha256: str
    spec_digest: str


class _Data(_Part):
    fingerprint: str
    features_sha256: str
    days: tuple[date, ...]


class _Observed(_Part):
    requested: Json
    resolved: Json
    model: _Model
    data: _Data
    threads: Threads
    device: str
    precision: str
    rows: int
    rows_scored: int


def differences(spec: PredictSpec, evidence: Json, *, job: Job, threads: int) -> list[str]:
    """As `verify.differences`; `job.params` has the weights that the submit chose."""
    try:
        seen = _Observed.model_validate(evidence)
    except ValidationError as error:
        places = [".".join(str(step) for step in found["loc"]) + f": {found['msg']}" for found in error.errors()]
        return [f"evidence.{place}" for place in places]
    asked = spec.model_dump(mode="json")
    pairs = [
        *unequal("", asked, seen.requested, open_fields=frozenset()),
        *unequal("", asked, seen.resolved, open_fields=OPEN),
        *_facts(spec, seen, job, threads),
    ]
    return [f"{field}: asked for {wanted!r}, found {found!r}" for field, wanted, found in pairs]


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
