"""What `GET /jobs/{id}/split` answers."""

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from api.http import examples
from api.jobs.schemas import FoldDays, View


class SplitView(View):
    """The trading days of each fold, and their picture."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.SPLIT]})

    kind: Literal["walk_forward", "purged_kfold", "cpcv"]
    embargo_days: int = Field(description="trading days between training, validation and test days")
    source: Literal["evidence", "plan"] = Field(
        description="evidence: what ran; plan: what will run, by the dataset's calendar"
    )
    folds: list[FoldDays] = Field(description="earliest test days first; one model is trained on each")
    figure: dict[str, Any] = Field(description="the same as a Plotly figure in JSON")


SPLIT_MODELS: Final = (SplitView,)
