"""Checks of a training run's evidence: the request against the child's resolved spec and the state of its objects.

The expected learning rates and parameter counts are recomputed from the request, not taken from the child.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from atft.spec.base import Spec
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec, TrainSpec
from atft.spec.split_plan import plan_split
from jobs.db.tables import Json

EXTRA_OS_THREADS: Final = 8  # interpreter, sampler, lease and library threads, which do no arithmetic
TOLERANCE: Final = 1e-6
# What the child may decide where the request leaves it open (null or auto).
OPEN_FIELDS: Final = frozenset(
    {"data.features", "split.train_days", "optimizer.eps", "trainer.precision", "resources.device", "resources.queue"}
)


Difference = tuple[str, object, object]
E = TypeVar("E", bound="BaseEvidence")


class EvidenceModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class BaseEvidence(EvidenceModel):
    """The evidence that every child sends: the requested and the resolved spec."""

    requested: Json
    resolved: Json


class _ParamGroup(EvidenceModel):
    betas: tuple[float, float]
    eps: float
    weight_decay: float


class _OptimizerEvidence(EvidenceModel):
    name: str = Field(alias="class")
    state_keys: tuple[str, ...]
    param_groups: tuple[_ParamGroup, ...] = Field(min_length=1)


class _SchedulerEvidence(EvidenceModel):
    name: str = Field(alias="class")
    lr_by_epoch: tuple[float, ...] = Field(min_length=1)


class Threads(EvidenceModel):
    limit: int
    torch_num_threads: int
    os_threads_peak: int


class DayRange(EvidenceModel):
    first: str
    last: str
    num_days: int


class FoldDays(EvidenceModel):
    train: tuple[DayRange, ...]
    val: tuple[DayRange, ...]
    test: tuple[DayRange, ...]


class _DataEvidence(EvidenceModel):
    fingerprint: str
    num_features: int
    horizons: tuple[int, ...]
    train_days: tuple[str, ...]
    val_days: tuple[str, ...]
    test_days: tuple[str, ...]
    purged_days: tuple[str, ...] = ()
    embargo_days: int
    folds: tuple[FoldDays, ...] = ()


class _FoldEvidence(EvidenceModel):
    seed: int | None = None
    lr_by_epoch: tuple[float, ...] = Field(min_length=1)
    grad_norm_first_step: dict[str, float | None] = Field(min_length=1)


class _ModuleEvidence(EvidenceModel):
    grad_norm_first_step: float | None


class _InitFromEvidence(EvidenceModel):
    job_id: str
    files: dict[str, str]
    loaded: tuple[str, ...]


class _SeedsEvidence(EvidenceModel):
    seed: int


class TrainingEvidence(BaseEvidence):
    """The checked parts of a training run's evidence."""

    optimizer: _OptimizerEvidence
    scheduler: _SchedulerEvidence
    threads: Threads
    device: str
    precision: str
    compiled: bool
    ema_decay: float | None
    data: _DataEvidence
    modules: dict[str, _ModuleEvidence]
    parameters: int
    batches_per_epoch: int
    accumulate: int
    seeds: _SeedsEvidence
    init_from: _InitFromEvidence | None = None
    folds: tuple[_FoldEvidence, ...] = ()
    members: tuple[_FoldEvidence, ...] = ()


def differences(
    spec: RunSpec | EnsembleSpec,
    evidence: Json,
    *,
    fingerprint: str | None,
    threads: int,
    weights: Mapping[str, str] | None = None,
) -> list[str]:
    """Every difference between request and evidence, with its field; [] if none. A missing part is one too.
    `weights`: SHA-256 by file of the job that `init_from` names.
    """
    run = spec.members[-1] if isinstance(spec, EnsembleSpec) else spec  # an ensemble ends with its last member
    return differences_from_request(
        TrainingEvidence,
        spec,
        evidence,
        OPEN_FIELDS if run is spec else frozenset(f"base.{name}" for name in OPEN_FIELDS),
        lambda observed: chain(
            _fact_differences(run, observed, fingerprint, threads),
            _init_from_differences(run, observed, weights or {}),
            _member_differences(spec, observed) if isinstance(spec, EnsembleSpec) else (),
        ),
    )


def differences_from_request(
    model: type[E], spec: Spec, evidence: Json, open_fields: frozenset[str], facts: Callable[[E], Iterable[Difference]]
) -> list[str]:
    """The differences between the spec and the evidence's requested and resolved specs, and those of `facts`."""
    try:
        observed = model.model_validate(evidence)
    except ValidationError as error:
        problems = [".".join(str(step) for step in found["loc"]) + f": {found['msg']}" for found in error.errors()]
        return [f"evidence.{problem}" for problem in problems]
    requested = spec.model_dump(mode="json")
    pairs = [
        *unequal_leaves("", requested, observed.requested, open_fields=frozenset()),
        *unequal_leaves("", requested, observed.resolved, open_fields=open_fields),
        *facts(observed),
    ]
    return [f"{field}: asked for {expected!r}, found {found!r}" for field, expected, found in pairs]


def unequal_leaves(path: str, requested: object, found: object, open_fields: frozenset[str]) -> Iterator[Difference]:
    """Compare leaf by leaf; an open field that was requested as null or auto may have any value."""
    if isinstance(requested, dict) and isinstance(found, dict):
        for key in sorted(set(requested) | set(found)):
            yield from unequal_leaves(f"{path}.{key}" if path else key, requested.get(key), found.get(key), open_fields)
    elif (
        path.endswith("data.features")
        and path in open_fields
        and isinstance(requested, list)
        and isinstance(found, list)
    ):
        missing = [name for name in requested if name not in found]
        if missing:  # the market's columns are added without being requested
            yield path, requested, found
    elif requested != found and not (path in open_fields and requested in (None, "auto")):
        yield path, requested, found


def _fact_differences(
    spec: RunSpec, observed: TrainingEvidence, fingerprint: str | None, threads: int
) -> Iterator[Difference]:
    facts: dict[str, tuple[object, object]] = {
        "dataset fingerprint": (fingerprint, observed.data.fingerprint),
        "data.horizons": (spec.data.horizons, observed.data.horizons),
        "split.embargo_days": (spec.split.embargo_days, observed.data.embargo_days),
        "trainer.compile": (spec.trainer.compile, observed.compiled),
        "trainer.ema_decay": (spec.trainer.ema_decay, observed.ema_decay),
        "trainer.accumulate": (spec.trainer.accumulate, observed.accumulate),
        "seed": (spec.seed, observed.seeds.seed),
        "resources.threads": (threads, observed.threads.limit),
        "threads.torch_num_threads": (threads, observed.threads.torch_num_threads),
        "model.use_fan": (spec.model.use_fan, "fan" in observed.modules),
        "model.use_gat": (spec.model.use_gat, "graph" in observed.modules),
        "parameters": (
            spec.num_parameters(observed.data.num_features),
            observed.parameters,
        ),
    }
    if spec.resources.device != "auto":
        facts["resources.device"] = (spec.resources.device, observed.device)
    if spec.trainer.precision != "auto":
        facts["trainer.precision"] = (spec.trainer.precision, observed.precision)
    yield from ((field, requested, found) for field, (requested, found) in facts.items() if requested != found)
    yield from _optimizer_differences(spec, observed)
    yield from _limit_differences(spec, observed, threads)
    yield from _day_differences(spec, observed) if spec.split.num_splits == 1 else _fold_differences(spec, observed)


def _init_from_differences(
    spec: RunSpec, observed: TrainingEvidence, weights: Mapping[str, str]
) -> Iterator[Difference]:
    """Check the digests of the loaded weights, and that every module of the encoder was loaded."""
    requested = spec.init_from if isinstance(spec, TrainSpec) else None
    found = observed.init_from
    if requested != (found.job_id if found is not None else None):
        yield "init_from", requested, found and found.job_id
    elif found is not None:
        if dict(weights) != found.files:
            yield "weights of init_from", dict(weights), found.files
        for name in (name for name in spec.model.modules if name != "heads"):
            if not any(tensor.startswith(f"{name}.") for tensor in found.loaded):
                yield f"module {name} of init_from", "loaded", "left as it was"


def _optimizer_differences(spec: RunSpec, observed: TrainingEvidence) -> Iterator[Difference]:
    row = spec.optimizer.row
    expected = row.class_on(observed.device).path
    if observed.optimizer.name != expected:
        yield "optimizer.name", expected, observed.optimizer.name
    if observed.optimizer.state_keys != row.state_keys:
        yield "optimizer state", list(row.state_keys), list(observed.optimizer.state_keys)
    for group in observed.optimizer.param_groups:
        if not all(map(math.isclose, spec.optimizer.betas, group.betas)):
            yield "optimizer.betas", spec.optimizer.betas, group.betas
        if not math.isclose(spec.optimizer.resolved_eps, group.eps):
            yield "optimizer.eps", spec.optimizer.resolved_eps, group.eps
        if not math.isclose(spec.optimizer.weight_decay, group.weight_decay):
            yield "optimizer.weight_decay", spec.optimizer.weight_decay, group.weight_decay
    if observed.scheduler.name != spec.scheduler.row.class_path:
        yield "scheduler.name", spec.scheduler.row.class_path, observed.scheduler.name
    yield from _learning_rate_differences(spec, observed.scheduler.lr_by_epoch)


def _learning_rate_differences(spec: RunSpec, lr_by_epoch: tuple[float, ...], where: str = "") -> Iterator[Difference]:
    for epoch, found in enumerate(lr_by_epoch):
        phase, first = spec.trainer.phase_of(epoch)
        rate = phase.lr if phase.lr is not None else spec.optimizer.lr
        expected = spec.scheduler.learning_rate(rate, epoch - first, phase.epochs)
        if not math.isclose(expected, found, rel_tol=TOLERANCE):
            yield f"learning rate of {where}epoch {epoch + 1}", expected, found
    if len(lr_by_epoch) > spec.trainer.max_epochs:
        yield f"{where}trainer.max_epochs", spec.trainer.max_epochs, len(lr_by_epoch)


def _limit_differences(spec: RunSpec, observed: TrainingEvidence, threads: int) -> Iterator[Difference]:
    if observed.device == "cpu" and observed.threads.os_threads_peak > threads + EXTRA_OS_THREADS:
        yield "threads.os_threads_peak", f"at most {threads + EXTRA_OS_THREADS}", observed.threads.os_threads_peak
    max_steps = spec.trainer.max_steps_per_epoch
    if max_steps is not None and observed.batches_per_epoch > max_steps:
        yield "trainer.max_steps_per_epoch", max_steps, observed.batches_per_epoch
    norms = {name: module.grad_norm_first_step for name, module in observed.modules.items()}
    yield from _gradient_differences(spec, norms, len(observed.scheduler.lr_by_epoch))


def _gradient_differences(
    spec: RunSpec, norms: Mapping[str, float | None], num_epochs: int, where: str = ""
) -> Iterator[Difference]:
    """Check that every module trained by a phase begun so far had a gradient above 0."""
    begun_phases = [spec.trainer.phase_of(epoch)[0] for epoch in range(num_epochs)]
    trained = {name for phase in begun_phases for name in phase.modules or spec.model.modules}
    for name, norm in norms.items():
        if name in trained and not norm:
            yield f"gradient of {where}module {name} at the first step", "above 0", norm


def _day_differences(spec: RunSpec, observed: TrainingEvidence) -> Iterator[Difference]:
    data, split = observed.data, spec.split
    for name, requested, found in (
        ("train_days", split.train_days, len(data.train_days)),
        ("val_days", split.val_days, len(data.val_days)),
        ("test_days", split.test_days, len(data.test_days)),
    ):
        if requested is not None and requested != found:
            yield f"split.{name}", requested, found
    days = [*data.train_days, *data.val_days, *data.test_days]
    if days != sorted(set(days)):  # ISO dates sort by time
        yield "split", "training, validation and test days one after the other", "days that overlap or go back"


def _fold_differences(spec: RunSpec, observed: TrainingEvidence) -> Iterator[Difference]:
    """Check each fold's days against a split planned anew on the days that were used, and its training."""
    data, window, horizon = observed.data, spec.data.window, max(spec.data.horizons)
    days = sorted({*data.train_days, *data.val_days, *data.test_days, *data.purged_days})
    try:
        plan = plan_split(len(days) + window + horizon, window, horizon, spec.split)
    except PydanticCustomError as error:
        yield "split", f"{spec.split.num_splits} folds", f"{len(days)} days: {error.message()}"
        return
    for count, what in ((len(data.folds), "folds with days"), (len(observed.folds), "folds trained")):
        if count != len(plan.folds):
            yield what, len(plan.folds), count
    for number, (requested, found) in enumerate(zip(plan.folds, data.folds, strict=False), 1):
        for role in ("train", "val", "test"):
            expected = [_day_range(days, part.start - window + 1, len(part)) for part in getattr(requested, role)]
            if expected != list(getattr(found, role)):
                yield f"{role} days of fold {number}", expected, list(getattr(found, role))
    yield from _training_differences(spec, observed.folds, "fold")


def _member_differences(spec: EnsembleSpec, observed: TrainingEvidence) -> Iterator[Difference]:
    found = tuple(member.seed for member in observed.members)
    if found != spec.seeds:
        yield "seeds", spec.seeds, found
    yield from _training_differences(spec.base, observed.members, "member")


def _training_differences(spec: RunSpec, folds: Sequence[_FoldEvidence], part: str) -> Iterator[Difference]:
    for number, fold in enumerate(folds, 1):
        yield from _learning_rate_differences(spec, fold.lr_by_epoch, f"{part} {number}, ")
        yield from _gradient_differences(spec, fold.grad_norm_first_step, len(fold.lr_by_epoch), f"{part} {number}, ")


def _day_range(days: Sequence[str], start: int, length: int) -> DayRange:
    return DayRange(first=days[start], last=days[start + length - 1], num_days=length)
