"""Spec of a prediction: scores of a finished run's best weights for a range of days."""

from datetime import date
from typing import Self

from pydantic import Field, model_validator

from atft.spec.base import Spec, refuse
from atft.spec.data import DatasetRef
from atft.spec.job import Tags
from atft.spec.training import ResourcesSpec


class PredictSpec(Spec):
    """Scores by the best weights of `model`, a succeeded training job, trial or ensemble, from `from_day` to `to_day`,
    inclusive. Those of an ensemble are the mean of its members' ranks.

    `fold`, from 1, selects the weights of a run of several folds. Days are the dataset's trading days.
    """

    model: str = Field(min_length=1, max_length=100, description="the id of a training job, trial or ensemble")
    fold: int | None = Field(None, ge=1)
    dataset: DatasetRef
    from_day: date
    to_day: date
    name: str | None = Field(None, max_length=200)
    tags: Tags = Field({})
    resources: ResourcesSpec = ResourcesSpec()

    @property
    def run(self) -> Self:
        """The spec with the name, tags and resources of the job, as in a training."""
        return self

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.to_day < self.from_day:
            refuse("/to_day", f"to_day {self.to_day} is before from_day {self.from_day}")
        return self
