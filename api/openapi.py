"""The OpenAPI document: FastAPI's, with an example on every model and every response."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from api.access.schemas import KEY_MODELS, NewKey, Quota, ShownKey
from api.comparisons.schemas import COMPARISON_MODELS
from api.datasets.schemas import DATASET_MODELS
from api.http import examples
from api.http.schemas import HTTP_MODELS
from api.jobs.evidence_schemas import EVIDENCE_EXAMPLES, EVIDENCE_MODELS
from api.jobs.schemas import JOB_MODELS
from api.predictions.schemas import PREDICT, PREDICTION_MODELS
from api.studies.schemas import STUDY_MODELS, Promotion
from api.system.schemas import SYSTEM_MODELS
from api.training.schemas import TRAINING_MODELS
from atft.spec.data import DatasetSpec, DataSpec, PlantedSpec, SideFile, SplitSpec
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import TrainSpec
from atft.spec.loss import LossSpec
from atft.spec.metric import LEADING
from atft.spec.model import GraphSpec, ModelSpec
from atft.spec.optimizer import OptimizerSpec
from atft.spec.prediction import PredictSpec
from atft.spec.pretrain import PretrainSpec, PretrainTrainer
from atft.spec.scheduler import SchedulerSpec
from atft.spec.space import CategoricalDimension, FloatDimension, IntDimension
from atft.spec.study import HpoSpec, PrunerSpec, SamplerSpec, SearchObjective
from atft.spec.training import (
    EarlyStopping,
    EvaluationSpec,
    PhaseSpec,
    ResourcesSpec,
    StopRule,
    TrainerSpec,
)

DESCRIPTION: Final = """
Training jobs for stock ranking: register a panel, submit a job, follow it, read its metrics.

* **What was requested is what ran**: `GET /jobs/{id}/evidence` shows the resolved spec beside what was observed.
* **No false numbers**: an undefined metric is `null`, never 0.
* **Errors** are `application/problem+json` (RFC 9457): a stable `code`, a `request_id`, JSON pointers of wrong fields.
* **Submit calls** take `Idempotency-Key`: the same key and body are the same job.
"""
TAGS: Final = [
    {"name": "datasets", "description": "Panels of stocks by day, and the caches built from them."},
    {"name": "jobs", "description": "Submit, list, get, cancel."},
    {"name": "studies", "description": "Hyperparameter studies: searches over a space of training jobs."},
    {"name": "results", "description": "Metrics, evidence, logs and files of a job."},
    {"name": "events", "description": "Server-sent events that resume where they were interrupted."},
    {"name": "access", "description": "API keys, the page's session, the audit log."},
    {"name": "service", "description": "Workers, health, Prometheus metrics."},
]
_SPEC_EXAMPLES: Final = {
    spec.__name__: spec().model_dump(mode="json")
    for spec in (
        DataSpec,
        SplitSpec,
        ModelSpec,
        GraphSpec,
        LossSpec,
        OptimizerSpec,
        SchedulerSpec,
        TrainerSpec,
        PretrainTrainer,
        EvaluationSpec,
        ResourcesSpec,
        EarlyStopping,
        PlantedSpec,
        SearchObjective,
        SamplerSpec,
        PrunerSpec,
    )
} | {
    "JsonValue": 0.034,
    **EVIDENCE_EXAMPLES,
    TrainSpec.__name__: examples.TRAIN,
    PretrainSpec.__name__: examples.PRETRAIN,
    EnsembleSpec.__name__: examples.ENSEMBLE,
    DatasetSpec.__name__: examples.DATASET_PATH,
    SideFile.__name__: SideFile(file="universe.parquet").model_dump(mode="json"),
    HpoSpec.__name__: examples.HPO,
    PredictSpec.__name__: PREDICT,
    FloatDimension.__name__: examples.HPO["space"]["optimizer.lr"],
    IntDimension.__name__: examples.HPO["space"]["model.gat_layers"],
    CategoricalDimension.__name__: examples.HPO["space"]["model.hidden_size"],
    Promotion.__name__: examples.PROMOTE,
    PhaseSpec.__name__: PhaseSpec(name="warm", epochs=3, lr=1e-3, modules=("heads",)).model_dump(mode="json"),
    NewKey.__name__: examples.NEW_KEY,
    Quota.__name__: {"jobs": 100},
    ShownKey.__name__: {"key": "atft_0123abcd_…"},
    StopRule.__name__: StopRule(metric=LEADING, at_epoch=5, below=0.0).model_dump(mode="json"),
}


def document(app: FastAPI) -> dict[str, Any]:
    """The application's OpenAPI 3.1 document, with examples."""
    body = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
    )
    components = body["components"]["schemas"]
    views: tuple[type[BaseModel], ...] = (
        *HTTP_MODELS,
        *JOB_MODELS,
        *EVIDENCE_MODELS,
        *SYSTEM_MODELS,
        *COMPARISON_MODELS,
        *STUDY_MODELS,
        *DATASET_MODELS,
        *TRAINING_MODELS,
        *KEY_MODELS,
        *PREDICTION_MODELS,
    )
    models: tuple[type[BaseModel], ...] = (*views, DatasetSpec)
    for model in models:
        schema = model.model_json_schema(
            ref_template="#/components/schemas/{model}", mode="validation" if model is DatasetSpec else "serialization"
        )
        for name, inner in schema.pop("$defs", {}).items():
            components.setdefault(name, inner)
        components.setdefault(model.__name__, schema)
        components[model.__name__]["examples"] = schema.get("examples", [])  # FastAPI drops nulls from examples
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    for name, example in _SPEC_EXAMPLES.items():
        if name in components:
            components[name]["examples"] = [example]
    for schema in components.values():
        for field in schema.get("properties", {}).values():
            if "anyOf" in field and isinstance(field.get("default"), dict):
                del field["default"]  # client generators refuse it; the parent's default has the same value
    for path in body["paths"].values():
        for operation in path.values():
            if (
                operation["responses"].get("422", {}).get("description") == "Validation Error"
            ):  # the framework's, not ours
                del operation["responses"]["422"]
            for response in operation["responses"].values():
                _add_example(response, components)
    return body


def _add_example(response: dict[str, Any], components: dict[str, Any]) -> None:
    """Add the model's example to each response that has none."""
    for media in response.get("content", {}).values():
        name = media.get("schema", {}).get("$ref", "").rpartition("/")[2]
        if "example" not in media and components.get(name, {}).get("examples"):
            media["example"] = components[name]["examples"][0]
