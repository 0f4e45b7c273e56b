"""The kinds of job, one row each in `KINDS`: what differs between kinds is read from here by submission, launch,
settlement, reruns, comparison, the command line and the page.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from atft.spec.base import Spec
from atft.spec.baselines import BaselinesSpec
from atft.spec.data import DatasetSpec
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec, TrainSpec
from atft.spec.prediction import PredictSpec
from atft.spec.pretrain import PretrainSpec
from atft.spec.study import HpoSpec, PreflightSpec


class JobKind(StrEnum):
    """What a job does."""

    DATASET = "dataset"
    TRAIN = "train"
    HPO = "hpo"
    TRIAL = "trial"
    PREFLIGHT = "preflight"
    ABLATION = "ablation"
    ENSEMBLE = "ensemble"
    PRETRAIN = "pretrain"
    PREDICT = "predict"
    BASELINES = "baselines"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What is true of every job of a kind.

    `noun` names one such job in a sentence, `form` is its text on the submit page (none: it has no form there).
    `spec` is the class of its spec, `trains` the class of the spec of each training that it runs.
    `path` is where it is submitted; jobs of a kind without one are made by a study, or by a training that needs them.
    `command` is that of `python -m atft` with its flags; a kind without one only coordinates other jobs.
    `evidence` is what its evidence proves, `view` what its page shows, `part` what its numbered metrics are of.
    """

    noun: str
    spec: type[Spec]
    form: str | None = None
    trains: type[RunSpec] | None = None
    path: str | None = None
    scope: Literal["jobs:write", "datasets:write"] = "jobs:write"
    command: tuple[str, ...] | None = None
    evidence: Literal["training", "prediction"] | None = None
    view: Literal["training", "prediction", "study", "plain"] = "plain"
    part: Literal["fold", "member"] = "fold"
    builds: bool = False  # its outputs are a dataset's cache
    of_study: bool = False  # one of a study's jobs: its files are expendable, and it is promoted instead of rerun
    needs_model: bool = False  # it works with the weights that its params name
    retryable: bool = False
    rerunnable: bool = False
    promotable: bool = False
    comparable: bool = False  # it has daily values of test days
    predicts: bool = False  # its weights may score other days
    initializes: bool = False  # a training's init_from may name it, or a member of it

    @property
    def coordinating(self) -> bool:
        """Whether it has no program: it submits other jobs and waits for them."""
        return self.command is None

    @property
    def nested(self) -> bool:
        """Whether the spec of what it trains is the `base` of its spec."""
        return self.trains is not None and self.spec is not self.trains


KINDS: Final[Mapping[JobKind, Kind]] = {
    JobKind.DATASET: Kind(
        noun="dataset build", spec=DatasetSpec, path="/datasets", scope="datasets:write",
        command=("build",), builds=True, retryable=True, rerunnable=True,
    ),
    JobKind.TRAIN: Kind(
        noun="training job", form="one training", spec=TrainSpec, trains=TrainSpec, path="/jobs/train",
        command=("run", "--stored-baselines"), evidence="training", view="training",
        retryable=True, rerunnable=True, promotable=True, comparable=True, predicts=True,
        initializes=True,
    ),
    JobKind.HPO: Kind(
        noun="study", form="a study: many trainings that search for the best parameters", spec=HpoSpec,
        trains=TrainSpec, path="/jobs/hpo", view="study", promotable=True,
    ),
    JobKind.TRIAL: Kind(
        noun="trial", spec=TrainSpec, trains=TrainSpec, command=("run", "--no-test"), evidence="training",
        view="training", of_study=True, promotable=True, comparable=True, predicts=True,
    ),
    JobKind.PREFLIGHT: Kind(
        noun="preflight", spec=PreflightSpec, trains=TrainSpec, command=("preflight",), of_study=True,
    ),
    JobKind.ABLATION: Kind(noun="ablation", spec=Spec),  # has no spec and no route yet
    JobKind.ENSEMBLE: Kind(
        noun="ensemble",
        form="an ensemble: one training for each of several seeds, their scores averaged by rank",
        spec=EnsembleSpec, trains=TrainSpec, path="/jobs/ensemble", command=("ensemble", "--stored-baselines"),
        evidence="training", view="training", part="member", retryable=True, rerunnable=True, comparable=True,
        predicts=True, initializes=True,
    ),
    JobKind.PRETRAIN: Kind(
        noun="pretraining",
        form="a pretraining: the network learns the panel without labels, for trainings to start from",
        spec=PretrainSpec, trains=PretrainSpec, path="/jobs/pretrain", command=("pretrain",), evidence="training",
        view="training", retryable=True, rerunnable=True, initializes=True,
    ),
    JobKind.PREDICT: Kind(
        noun="prediction", spec=PredictSpec, path="/jobs/predict", command=("predict",), evidence="prediction",
        view="prediction", needs_model=True, retryable=True,
    ),
    JobKind.BASELINES: Kind(
        noun="computation of baselines", spec=BaselinesSpec, command=("baselines",), retryable=True, rerunnable=True,
    ),
}  # fmt: skip


def kind_named(name: str) -> Kind | None:
    """The kind of this name; null for one that this version does not know."""
    return next((kind for known, kind in KINDS.items() if known == name), None)


def kinds_where(condition: Callable[[Kind], object]) -> tuple[JobKind, ...]:
    """The kinds of which it is true, in the order of the table."""
    return tuple(name for name, kind in KINDS.items() if condition(kind))
