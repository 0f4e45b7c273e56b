"""A difference planted in each field of real evidence is named, but in those that no request determines.

The evidence is that of the stored jobs of an earlier release (`tests/fixtures/dumps`), and of a training on two folds.
A new field must be in one of them and checked, or be listed in `ENVIRONMENT` with a reason.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from atft.evidence import prediction, training
from atft.evidence.comparison import Given
from atft.evidence.models import ENVIRONMENT, JobEvidence, PredictionEvidence, TrainingEvidence
from atft.evidence.training import GivenTraining, GivenWeights
from atft.spec.base import Spec, digest
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import TrainSpec
from atft.spec.prediction import PredictSpec
from atft.spec.pretrain import PretrainSpec

FIXTURES = Path(__file__).parents[3] / "fixtures"
STORED: dict[str, Any] = json.loads((FIXTURES / "dumps" / "0003-74347c2.json").read_text())
SPECS: dict[str, type[Spec]] = {
    "train": TrainSpec, "second train": TrainSpec, "trial 0": TrainSpec, "trial 1": TrainSpec, "init_from": TrainSpec,
    "folds": TrainSpec, "pretrain": PretrainSpec, "ensemble": EnsembleSpec, "predict": PredictSpec,
}  # fmt: skip
# What is measured is held to a bound: a value beyond it.
BEYOND_BOUND: dict[str, object] = {
    "rows": 0,
    "modules.grad_norm_first_step": 0.0,
    "init_from.left": ["fan.describe.bias"],
    "data.days": ["2199-01-01"],
}

BASELINE = {
    "days_share": 1.0, "rows_share": 0.9, "columns": 8, "penalties": {"1": 0.1}, "no_signal": [5], "trees": {"1": 7},
    "params": {"num_leaves": 15.0}, "seconds": 1.5, "missing": "no samples",
}  # fmt: skip


OTHER_BASELINE = {
    "baselines.penalties": {"1": 0.2}, "baselines.trees": {"1": 9}, "baselines.params": {"num_leaves": 7.0},
}  # fmt: skip


def evidence_of(job: str) -> dict[str, Any]:
    """The evidence, with the fields that its specs have gained since it was stored."""
    if job == "folds":
        found: dict[str, Any] = json.loads((FIXTURES / "evidence" / "folds.json").read_text())
    else:
        found = STORED["answers"][f"/jobs/{STORED['jobs'][job]}/evidence"]
    requested, resolved = (SPECS[job].model_validate(found[part]) for part in ("requested", "resolved"))
    own = {"requested": requested.model_dump(mode="json"), "requested_digest": requested.digest()}
    if job == "second train":  # releases before had no evidence of baselines
        own["baselines"] = {"ridge": [BASELINE]}
    return found | own | {"resolved": resolved.model_dump(mode="json"), "resolved_digest": resolved.digest()}


def differences(job: str, evidence: dict[str, Any]) -> list[str]:
    """What the service finds in this evidence, with what was given to the job."""
    real = evidence_of(job)
    given: dict[str, Any] = {
        "fingerprint": real["data"]["fingerprint"],
        "threads": real["threads"]["limit"],
        "environment": {name: value for name, value in real["threads"]["env"].items() if value is not None},
    }
    spec: Any = SPECS[job].model_validate(real["requested"])
    if job == "predict":
        return prediction.differences(spec, evidence, Given(**given), real["model"] | real["data"])
    source = real["init_from"]
    weights = GivenWeights(task=source["task"], sha256=source["files"]) if source is not None else None
    return training.differences(spec, evidence, GivenTraining(**given, weights=weights))


@pytest.mark.parametrize("job", SPECS)
def test_real_evidence_has_no_difference(job: str) -> None:
    assert differences(job, evidence_of(job)) == []


def fields_of(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The path of each field of a model that holds no model itself, by the names in JSON."""
    for name, field in model.model_fields.items():
        here = f"{path}{field.alias or name}"
        inner = models_in(field.annotation)
        if inner is None:
            yield here
        else:
            yield from fields_of(inner, f"{here}.")


def models_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := models_in(part)) is not None), None)


@dataclass(frozen=True)
class Place:
    """One value in an evidence: the steps to it, and the path of its field."""

    job: str
    field: str
    steps: tuple[str | int, ...]

    @property
    def path(self) -> str:
        """The steps without numbers of items, as differences name them."""
        return ".".join(step for step in self.steps if isinstance(step, str))


def places(
    job: str, value: dict[str, Any], model: type[BaseModel], path: str = "", steps: tuple[str | int, ...] = ()
) -> Iterator[Place]:
    """A place of each field that the evidence has: in a list the first item, in a mapping the first value."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        inner, found = models_in(field.annotation), value.get(key)
        here: tuple[str | int, ...] = (*steps, key)
        if inner is None and key in value:
            yield Place(job, f"{path}{key}", here)
        elif inner is not None and found:
            mapping = any(get_origin(part) is dict for part in (field.annotation, *get_args(field.annotation)))
            if mapping:
                step = next(iter(found))
                found, here = found[step], (*here, step)
            if isinstance(found, list):
                found, here = found[0], (*here, 0)
            yield from places(job, found, inner, f"{path}{key}.", here)


def cases(model: type[JobEvidence], jobs: tuple[str, ...]) -> dict[str, Place]:
    """A place for each field of the model, in the first of the jobs that has it."""
    found: dict[str, Place] = {}
    for job in jobs:
        for place in places(job, evidence_of(job), model):
            found.setdefault(place.field, place)
    return found


TRAINING = cases(TrainingEvidence, ("init_from", "second train", "ensemble", "folds"))
PREDICTION = cases(PredictionEvidence, ("predict",))


def test_there_is_a_place_for_each_field() -> None:
    assert set(TRAINING) == set(fields_of(TrainingEvidence))
    assert set(PREDICTION) == set(fields_of(PredictionEvidence))
    for model, known in ((TrainingEvidence, TRAINING), (PredictionEvidence, PREDICTION)):
        assert set(ENVIRONMENT[model]) <= set(known)
        assert all(ENVIRONMENT[model].values())


def planted(place: Place) -> dict[str, Any]:
    """The evidence with another value in this place."""
    evidence: Any = json.loads(json.dumps(evidence_of(place.job)))
    node = evidence
    for step in place.steps[:-1]:
        node = node[step]
    last = place.steps[-1]
    replacements = BEYOND_BOUND | OTHER_BASELINE
    node[last] = replacements[place.field] if place.field in replacements else another(node[last])
    if place.steps == ("resolved",):
        evidence["resolved_digest"] = digest(evidence["resolved"])
    return evidence  # type: ignore[no-any-return]


def another(value: Any) -> object:
    match value:
        case bool():
            return not value
        case int():
            return value + 1_000_000
        case float():
            return 2 * value + 1
        case str() if re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            return str(date.fromisoformat(value).replace(year=1990))
        case str():
            return "other"
        case [*rest, last]:
            return rest if isinstance(last, str) else [*rest, another(last)]
        case []:
            return ["other"]
        case dict():
            return value | {"other": "other"}
    return 0.5


@pytest.mark.parametrize(
    "place",
    [place for model, known in ((TrainingEvidence, TRAINING), (PredictionEvidence, PREDICTION))
     for field, place in known.items() if field not in ENVIRONMENT[model]],
    ids=lambda place: f"{place.job}-{place.field}",
)  # fmt: skip
def test_a_difference_in_a_field_is_named(place: Place) -> None:
    found = differences(place.job, planted(place))
    assert any(place.path in re.sub(r"\.\d+\b", "", one) for one in found), found


@pytest.mark.parametrize(
    "place",
    [place for model, known in ((TrainingEvidence, TRAINING), (PredictionEvidence, PREDICTION))
     for field, place in known.items() if field in ENVIRONMENT[model]],
    ids=lambda place: f"{place.job}-{place.field}",
)  # fmt: skip
def test_a_field_of_the_environment_may_have_any_value(place: Place) -> None:
    assert differences(place.job, planted(place)) == []
