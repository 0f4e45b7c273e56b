"""Evidence: what a child observed of its run, read from the objects in use. Closed models of what the child sends, the
service stores and `GET /jobs/{id}/evidence` serves. Imports pydantic only.

A key is optional only where some run has none of it, or where rows stored by older code lack it; each says why.
"""

from datetime import date
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Json = dict[str, Any]


class EvidenceModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def to_json(self) -> Json:
        """The evidence as it is sent and stored: keys that were not given are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Stretch(EvidenceModel):
    """Consecutive trading days."""

    first: date
    last: date
    num_days: int


class FoldDays(EvidenceModel):
    """The trading days of one training with its evaluation; `purged` days are the gaps between them."""

    train: list[Stretch]
    val: list[Stretch]
    test: list[Stretch]
    purged: list[Stretch]


class ParamGroup(EvidenceModel):
    """A parameter group of the optimizer; `parameters` is its number of tensors."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    parameters: int


class OptimizerEvidence(EvidenceModel):
    """The optimizer object: its class, the keys of its state, and its parameter groups."""

    class_path: str = Field(alias="class")
    module: str
    version: str
    state_keys: tuple[str, ...] = Field(description="empty before the first update")
    param_groups: tuple[ParamGroup, ...] = Field(min_length=1)
    rectify: bool | None = Field(None, description="absent where the class has no such attribute")
    weight_decouple: bool | None = Field(None, description="absent where the class has no such attribute")


class SchedulerEvidence(EvidenceModel):
    """The scheduler object: its class, the classes that run one after another, and the rate of each started epoch."""

    class_path: str = Field(alias="class")
    sequence: tuple[str, ...]
    lr_by_epoch: tuple[float, ...] = Field(min_length=1)


class ThreadsEvidence(EvidenceModel):
    """Threads of the child: the limit, the variables it was started with, and what was counted."""

    limit: int
    env: dict[str, str | None]
    torch_num_threads: int
    torch_num_interop_threads: int
    os_threads_peak: int


class DataEvidence(EvidenceModel):
    """The data that were used. With several folds a list of days has the days used so in any fold."""

    fingerprint: str
    num_rows: int
    num_features: int
    features_sha256: str
    allowed_leaks: list[str]
    reader: Literal["mapped", "resident"]
    reader_dtype: Literal["float32", "bfloat16"]
    horizons: tuple[int, ...]
    train_days: list[date]
    val_days: list[date]
    test_days: list[date]
    purged_days: list[date]
    embargo_days: int
    folds: list[FoldDays] | None = Field(None, description="absent in a run of one fold")


class InitFromEvidence(EvidenceModel):
    """The initial weights: files with their SHA-256, the tensors loaded, and those left as initialized at random."""

    job_id: str
    task: str
    files: dict[str, str]
    loaded: tuple[str, ...]
    left: tuple[str, ...]


class ModuleEvidence(EvidenceModel):
    """One module of the network; the norm is null before the module's first update."""

    parameters: int
    grad_norm_first_step: float | None


class FoldEvidence(EvidenceModel):
    """The training of one fold, or of one member of an ensemble; lists have one number for each started epoch."""

    seed: int | None = Field(None, description="absent in rows of releases before ensembles")
    lr_by_epoch: tuple[float, ...] = Field(min_length=1)
    batches_by_epoch: tuple[int, ...]
    samples_by_epoch: tuple[int, ...]
    grad_norm_first_step: dict[str, float | None]
    best_epoch: int | None
    ending: str | None


class SeedsEvidence(EvidenceModel):
    """The seed, how a step's seed is made from it, and the seed that torch had last."""

    seed: int
    step: Literal["sha256(seed, epoch, step)"]
    torch_initial_seed: int


class MemoryEvidence(EvidenceModel):
    """Memory of the machine: what the run was estimated to need, what was free, and the peak."""

    needed_bytes: int
    free_bytes: int
    fits: bool
    rss_peak_bytes: int | None = Field(None, description="absent before the first step")


class GitEvidence(EvidenceModel):
    """The checkout that the code ran from."""

    sha: str
    dirty: bool


class JobEvidence(EvidenceModel):
    """What a training and a prediction have in common: the requested and the resolved spec, and the environment."""

    requested: dict[str, JsonValue]
    requested_digest: str
    resolved: dict[str, JsonValue]
    resolved_digest: str
    threads: ThreadsEvidence
    device: Literal["cpu", "cuda"]
    device_name: str
    versions: dict[str, str | None]
    host: str
    precision: Literal["float32", "bfloat16"]
    micro_batch_days: int
    git: GitEvidence | None


class BaselineEvidence(EvidenceModel):
    """What a baseline was fitted on. Shares are of the training days that have samples, and of these samples, with all
    targets known or not; `no_signal` are the horizons whose largest penalty was the best.
    """

    days_share: float | None = Field(None, description="absent where it was not computed")
    rows_share: float | None = Field(None, description="absent where it was not computed")
    columns: int
    penalties: dict[int, float] | None = Field(None, description="by horizon; absent but for ridge regressions")
    no_signal: tuple[int, ...] = ()
    trees: dict[int, int] | None = Field(None, description="by horizon; absent but for trees")
    params: dict[str, float] | None = Field(None, description="absent but for trees")
    seconds: float | None = Field(None, description="absent where it was not computed")
    missing: str | None = Field(None, description="why it was not computed; absent where it was")


class TrainingEvidence(JobEvidence):
    """Evidence of a training, pretraining or ensemble. Values by epoch are those of the current fold or member;
    `folds` and `members` have them for each.
    """

    optimizer: OptimizerEvidence
    scheduler: SchedulerEvidence
    compiled: bool
    ema_decay: float | None
    data: DataEvidence
    init_from: InitFromEvidence | None = Field(None, description="absent in rows of releases before init_from")
    modules: dict[str, ModuleEvidence]
    parameters: int
    updates: int
    batches_per_epoch: int
    samples_per_epoch: int
    batches_by_epoch: tuple[int, ...]
    samples_by_epoch: tuple[int, ...]
    folds: list[FoldEvidence] | None = Field(None, description="absent in a run of one fold")
    members: list[FoldEvidence] | None = Field(None, description="absent but for an ensemble")
    days_per_step: int
    accumulate: int
    seeds: SeedsEvidence
    memory: MemoryEvidence
    baselines: dict[str, list[BaselineEvidence]] | None = Field(
        None, description="of each fold; absent where the run has none of its own"
    )


class BaselinesEvidence(EvidenceModel):
    """Evidence of a job of baselines: what each was fitted on, for each fold."""

    baselines: dict[str, list[BaselineEvidence]]


class PredictionModel(EvidenceModel):
    """The weights of a prediction, and what they were trained on."""

    spec_digest: str
    fingerprint: str
    weights: str = Field(description="name of the file; of an ensemble those of its members, joined by ', '")
    sha256: str = Field(description="of the file; of an ensemble those of its members' files, joined by ', '")
    last_day: date


class PredictionData(EvidenceModel):
    """The days of a prediction; `num_learned_days` of them are no later than the last label used in training."""

    fingerprint: str
    num_rows: int
    num_features: int
    features_sha256: str
    horizons: tuple[int, ...]
    days: list[date]
    num_learned_days: int


class PredictionEvidence(JobEvidence):
    """Evidence of a prediction."""

    model: PredictionModel
    data: PredictionData
    rows: int
    rows_scored: int


class DroppedRowsEvidence(EvidenceModel):
    """The rows of one file that `on_bad_cell: drop` left out; `cells` are the bad cells by column."""

    file: str
    num_rows: int
    cells: dict[str, int]
    message: str


class BuildEvidence(EvidenceModel):
    """Evidence of a dataset's build."""

    versions: dict[str, str | None]
    host: str
    dropped_rows: list[DroppedRowsEvidence] | None = Field(
        None, description="absent before the build's end, and in rows of releases before on_bad_cell"
    )


class EarlyEvidence(EvidenceModel):
    """Evidence before the first step, for judging a run that dies in it."""

    micro_batch_days: int | None = Field(None, description="absent where the memory did not suffice")
    memory: MemoryEvidence | None = Field(None, description="absent in a prediction")


_DATASET: Final = "a fact of the dataset, which data.fingerprint identifies"
_MODEL: Final = "a fact of the model, which model.sha256 and model.spec_digest identify"
# Fields that no request determines, by path, each with its reason. Every other field is checked.
ENVIRONMENT: Final[dict[type[JobEvidence], dict[str, str]]] = {
    TrainingEvidence: {
        "device_name": "the machine's device",
        "versions": "the packages installed",
        "host": "the machine's name",
        "git.sha": "the code installed",
        "git.dirty": "the code installed",
        "optimizer.version": "the package installed",
        "memory.needed_bytes": "measured",
        "memory.free_bytes": "measured",
        "memory.rss_peak_bytes": "measured",
        "data.num_rows": _DATASET,
        "data.allowed_leaks": _DATASET,
        **{f"baselines.{name}": "measured" for name in BaselineEvidence.model_fields},
    },
    PredictionEvidence: {
        "device_name": "the machine's device",
        "versions": "the packages installed",
        "host": "the machine's name",
        "git.sha": "the code installed",
        "git.dirty": "the code installed",
        "micro_batch_days": "the model's own, or less after an attempt that ran out of memory",
        "data.num_rows": _DATASET,
        "data.num_features": "a fact of the features, which data.features_sha256 identifies",
        "data.horizons": _MODEL,
        "model.fingerprint": _MODEL,
    },
}
