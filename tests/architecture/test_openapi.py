"""The OpenAPI document equals its snapshot, is complete, and has valid examples.

The snapshot leaves the examples out: they are checked here, and are no part of the contract. Renew it with
`python tests/architecture/test_openapi.py`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.openapi.models import OpenAPI

from api.access.schemas import KEY_MODELS, NewKey
from api.app import create_app
from api.comparisons.schemas import COMPARISON_MODELS
from api.datasets.schemas import DATASET_MODELS
from api.http.schemas import HTTP_MODELS
from api.jobs.evidence_schemas import EVIDENCE_EXAMPLES, EVIDENCE_MODELS
from api.jobs.schemas import JOB_MODELS
from api.predictions.schemas import PREDICTION_MODELS
from api.studies.schemas import STUDY_MODELS, Promotion
from api.system.schemas import SYSTEM_MODELS
from api.training.schemas import TRAINING_MODELS
from atft.spec.data import DatasetSpec
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import TrainSpec
from atft.spec.prediction import PredictSpec
from atft.spec.pretrain import PretrainSpec
from atft.spec.study import HpoSpec
from jobs.settings import Settings

SNAPSHOT = Path(__file__).with_name("openapi.json")
PUBLIC = {"/livez", "/readyz"}


def document() -> dict[str, Any]:
    app = create_app(Settings(database_url="postgresql://u@127.0.0.1:1/x", redis_url="redis://127.0.0.1:1/0"))
    return json.loads(json.dumps(app.openapi()))


def without_examples(node: Any) -> Any:
    """A copy without `example` and `examples`; a schema's property of that name would stay."""
    if isinstance(node, list):
        return [without_examples(value) for value in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: without_examples(schema) for name, schema in value.items()}
        if key == "properties"
        else without_examples(value)
        for key, value in node.items()
        if key not in ("example", "examples")
    }


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    return document()


def operations(openapi: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in openapi["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_document_is_the_snapshot(openapi: dict[str, Any]) -> None:
    assert without_examples(openapi) == json.loads(SNAPSHOT.read_text()), (
        f"the API has changed: run `python {SNAPSHOT.parent.name}/test_openapi.py`, read the diff"
    )


def test_snapshot_leaves_only_examples_out() -> None:
    schema = {"example": 1, "properties": {"examples": {"type": "integer", "examples": [2]}}, "required": ["examples"]}
    kept = {"properties": {"examples": {"type": "integer"}}, "required": ["examples"]}
    assert without_examples([schema]) == [kept]


def test_document_is_openapi_3_1(openapi: dict[str, Any]) -> None:
    assert openapi["openapi"].startswith("3.1.")
    OpenAPI.model_validate(openapi)
    for reference in set(references(openapi)):
        assert reference.removeprefix("#/components/schemas/") in openapi["components"]["schemas"], reference


def test_every_operation_is_described_with_an_example(openapi: dict[str, Any]) -> None:
    names = []
    for where, operation in operations(openapi):
        names.append(operation["operationId"])
        assert len(operation["description"]) > 30, where
        assert operation["summary"], where
        assert set(operation["tags"]) <= {tag["name"] for tag in openapi["tags"] if tag["description"]}, where
        good = [
            response for status, response in operation["responses"].items() if status in ("200", "201", "202", "204")
        ]
        media = [media for response in good for media in response.get("content", {}).values()]
        assert any("example" in one for one in media) or "204" in operation["responses"], where
        assert all(parameter.get("description") for parameter in operation.get("parameters", [])), where
        for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
            assert "examples" in body or media_type == "multipart/form-data", where
    assert len(names) == len(set(names))


def test_every_operation_documents_its_problems(openapi: dict[str, Any]) -> None:
    for where, operation in operations(openapi):
        if where.removeprefix("GET ") in PUBLIC:
            continue
        for status in ("401", "403", "422", "429", "503"):
            content = operation["responses"][status]["content"]["application/problem+json"]
            assert content["schema"]["$ref"].endswith("/Problem"), (where, status)
            assert content["example"]["status"] == int(status), (where, status)
        if "{" in where:
            assert "404" in operation["responses"], where


def test_every_component_has_an_example(openapi: dict[str, Any]) -> None:
    without = [
        name
        for name, schema in openapi["components"]["schemas"].items()
        if not schema.get("examples") and "enum" not in schema
    ]
    assert without == []


def test_examples_are_instances_of_their_models(openapi: dict[str, Any]) -> None:
    requests = (TrainSpec, EnsembleSpec, PretrainSpec, HpoSpec, PredictSpec, DatasetSpec, Promotion, NewKey)
    responses = (
        *HTTP_MODELS,
        *JOB_MODELS,
        *EVIDENCE_MODELS,
        *SYSTEM_MODELS,
        *COMPARISON_MODELS,
        *STUDY_MODELS,
        *DATASET_MODELS,
        *TRAINING_MODELS,
        *KEY_MODELS,
    )
    responses += PREDICTION_MODELS
    models = {model.__name__: model for model in (*responses, *requests)}
    for model in EVIDENCE_MODELS:
        assert model.model_validate(EVIDENCE_EXAMPLES[model.__name__])
    for where, operation in operations(openapi):
        contents = [
            operation.get("requestBody", {}).get("content", {}),
            *(response.get("content", {}) for response in operation["responses"].values()),
        ]
        for media in (media for content in contents for media in content.values()):
            model = models.get(media.get("schema", {}).get("$ref", "").rpartition("/")[2])
            values = (
                [media["example"]]
                if "example" in media
                else [one["value"] for one in media.get("examples", {}).values()]
            )
            for value in values if model is not None else []:
                assert model.model_validate(value), where


def test_pain_16_specs_are_closed(openapi: dict[str, Any]) -> None:
    specs = (
        "TrainSpec", "EnsembleSpec", "PretrainSpec", "DatasetSpec", "ModelSpec", "SplitSpec", "OptimizerSpec",
        "HpoSpec", "FloatDimension",
    )  # fmt: skip
    for name in specs:
        assert openapi["components"]["schemas"][name]["additionalProperties"] is False


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(without_examples(document()), indent=1, ensure_ascii=False, sort_keys=True) + "\n")
