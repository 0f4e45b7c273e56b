"""Checks of a prediction's evidence: weights, features, dataset and days against the request."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Final

from atft.evidence.comparison import Difference, Given, find_differences, leaf, unequal
from atft.evidence.models import Json, PredictionEvidence
from atft.spec.prediction import PredictSpec

OPEN_FIELDS: Final = frozenset({"fold", "resources.device"})


def differences(spec: PredictSpec, evidence: Json, given: Given, weights: Mapping[str, object]) -> list[str]:
    """Every difference between request and evidence; `weights` has the name and the digests that were chosen when the
    prediction was submitted.
    """
    return find_differences(
        PredictionEvidence, spec, given, evidence, OPEN_FIELDS, lambda found: _facts(spec, found, given, weights)
    )


def _facts(
    spec: PredictSpec, observed: PredictionEvidence, given: Given, weights: Mapping[str, object]
) -> Iterator[Difference]:
    model, data, resolved = observed.model, observed.data, observed.resolved
    yield from unequal(
        {
            "model.weights": (weights.get("weights"), model.weights),
            "model.sha256": (weights.get("sha256"), model.sha256),
            "model.spec_digest": (weights.get("spec_digest"), model.spec_digest),
            "data.features_sha256": (weights.get("features_sha256"), data.features_sha256),
            "data.fingerprint": (given.fingerprint, data.fingerprint),
            "precision": ("float32", observed.precision),
            "device": (leaf(resolved, "resources.device"), observed.device),
            "resolved.fold": (spec.fold or 1, resolved.get("fold")),
        }
    )
    days = data.days
    if not days or days != sorted(set(days)) or days[0] < spec.from_day or days[-1] > spec.to_day:
        yield "data.days", f"trading days from {spec.from_day} to {spec.to_day}", [str(day) for day in days[:3]]
    learned = bisect_right(days, model.last_day)  # and the days whose labels ended by then
    if not learned <= data.num_learned_days <= min(len(days), learned + 1 + max(data.horizons)):
        yield "data.num_learned_days", f"those up to model.last_day, {model.last_day}", data.num_learned_days
    if not 0 <= observed.rows_scored <= observed.rows:
        yield "rows_scored", f"at most {observed.rows} rows", observed.rows_scored
