"""Response model of predictions, and example requests."""

from datetime import date
from typing import Final

from pydantic import ConfigDict, Field, JsonValue

from api.http import examples
from api.http.schemas import View

PREDICT: Final[examples.Example] = {
    "model": examples.JOB_ID,
    "dataset": "us_2010_2017",
    "from_day": "2017-01-03",
    "to_day": "2017-12-29",
}
PREDICT_FOLD: Final[examples.Example] = PREDICT | {"fold": 3, "name": "third fold", "tags": {"desk": "tokyo"}}
PREDICT_PLAN: Final[examples.Example] = {
    "spec": PREDICT,
    "spec_digest": "5d0a7c1e94b2f836",
    "warnings": [],
    "dataset_fingerprint": examples.FINGERPRINT,
    "weights": "best.safetensors",
    "weights_sha256": examples.ARTIFACT["sha256"],
    "num_parameters": 148_212,
    "horizons": [1, 5, 10, 20],
    "first_day": "2017-01-03",
    "last_day": "2017-12-29",
    "num_days": 251,
    "estimated_rows": 125_500,
    "estimated_seconds": 24.1,
    "estimated_bytes": 3_012_000,
    "queue": "cpu",
    "queue_position": 0,
}


class PredictPlan(View):
    """The plan of a prediction. Nothing is stored."""

    model_config = ConfigDict(json_schema_extra={"examples": [PREDICT_PLAN]})

    spec: dict[str, JsonValue] = Field(description="resolved: every default filled in")
    spec_digest: str
    warnings: list[str] = Field(description="also days that are in sample, and days that cannot be scored")
    dataset_fingerprint: str
    weights: str = Field(
        description="artifact of the model with the weights; of an ensemble those of its members, joined by ', '"
    )
    weights_sha256: str = Field(description="of the artifact; of an ensemble those of its members', joined by ', '")
    num_parameters: int
    horizons: list[int]
    first_day: date | None = Field(
        description="trading day; this and the fields computed from it are null when unknown"
    )
    last_day: date | None
    num_days: int | None
    estimated_rows: int | None = Field(description="estimate: days × median stocks per day")
    estimated_seconds: float | None = Field(
        description="upper estimate, at the speed of the training, which scoring exceeds"
    )
    estimated_bytes: int | None = Field(description="upper estimate of the size of the artifact")
    queue: str
    queue_position: int


PREDICTION_MODELS: Final = (PredictPlan,)
