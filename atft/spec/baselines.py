"""Spec of baselines: the simple rankers that stand beside trainings on the same days."""

from typing import Final, Self

from pydantic import Field

from atft.spec.base import Spec, digest
from atft.spec.data import DatasetRef, DataSpec, SplitSpec
from atft.spec.job import Tags, TrainSpec
from atft.spec.training import EvaluationSpec, ResourcesSpec

FITTED: Final = ("ridge", "ridge_lags", "linear_ard", "lightgbm")
NAMES: Final = ("zero", "last_return", *FITTED)
VERSION: Final = 2  # of the computation: with another one, stored baselines are not used
UNAVAILABLE: Final = "LightGBM cannot be loaded"  # until a library is installed


class BaselinesSpec(Spec):
    """What baselines depend on besides the data: the labels, the split and the evaluation of a training."""

    dataset: DatasetRef
    name: str | None = Field(None, max_length=200)
    tags: Tags = Field({})
    data: DataSpec = DataSpec()
    split: SplitSpec = SplitSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    resources: ResourcesSpec = ResourcesSpec()

    @classmethod
    def of(cls, spec: TrainSpec) -> Self:
        """The baselines of a training. They are computed on the CPU."""
        resources = ResourcesSpec(device="cpu", threads=spec.resources.threads)
        return cls(
            dataset=spec.dataset, data=spec.data, split=spec.split, evaluation=spec.evaluation, resources=resources
        )

    @property
    def run(self) -> Self:
        """The spec with the name, tags and resources of the job, as in a training."""
        return self

    @property
    def key(self) -> str:
        """Digest of what the numbers depend on: on the same data, equal keys have equal baselines."""
        fields = self.model_dump(mode="json", include={"data", "split", "evaluation"})
        return digest({"version": VERSION, **fields})
