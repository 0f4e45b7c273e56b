"""Checks of a training run's evidence: the request against the child's resolved spec and the state of its objects.

Learning rates, days, sizes of parameters and seeds are computed anew from the request, not taken from the child.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import chain
from typing import Final

from pydantic_core import PydanticCustomError

from atft.evidence.comparison import Difference, Given, find_differences, leaf, unequal
from atft.evidence.models import DataEvidence, FoldDays, FoldEvidence, Json, Stretch, TrainingEvidence
from atft.spec.base import digest, mix
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec
from atft.spec.split_plan import DayRanges, Fold, plan_split

TOLERANCE: Final = 1e-6
# What the child decides where the request leaves it open (null or auto); each is compared with what was observed.
OPEN_FIELDS: Final = frozenset(
    {"data.features", "split.train_days", "optimizer.eps", "trainer.precision", "resources.device"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenWeights:
    """The initial weights on record: the task that they were trained by, and the SHA-256 of each file."""

    task: str
    sha256: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenTraining(Given):
    """What the child of a training was given; `weights` are those of the job that `init_from` names."""

    weights: GivenWeights | None = field(default=None)


def differences(spec: RunSpec | EnsembleSpec, evidence: Json, given: GivenTraining) -> list[str]:
    """Every difference between request and evidence, with its field; [] if none."""
    run = spec.members[-1] if isinstance(spec, EnsembleSpec) else spec  # an ensemble ends with its last member
    several = isinstance(spec, EnsembleSpec)
    open_fields = frozenset(f"base.{name}" for name in OPEN_FIELDS) if several else OPEN_FIELDS
    return find_differences(
        TrainingEvidence,
        spec,
        given,
        evidence,
        open_fields,
        lambda found: chain(_facts(run, found, given), _parts(spec, run, found), _days(run, found)),
    )


def _facts(spec: RunSpec, observed: TrainingEvidence, given: GivenTraining) -> Iterator[Difference]:
    data, resolved = observed.data, observed.resolved.get("base", observed.resolved)
    sizes = spec.parameter_sizes(data.num_features)
    features = leaf(resolved, "data.features")
    names = features if isinstance(features, list) else []
    yield from unequal(
        {
            "data.fingerprint": (given.fingerprint, data.fingerprint),
            "data.num_features": (len(names), data.num_features),
            "data.features_sha256": (digest(names), data.features_sha256),
            "data.horizons": (spec.data.horizons, data.horizons),
            "data.embargo_days": (spec.split.embargo_days, data.embargo_days),
            "device": (leaf(resolved, "resources.device"), observed.device),
            "precision": (leaf(resolved, "trainer.precision"), observed.precision),
            "compiled": (spec.trainer.compile, observed.compiled),
            "ema_decay": (spec.trainer.ema_decay, observed.ema_decay),
            "accumulate": (spec.trainer.accumulate, observed.accumulate),
            "seeds.seed": (spec.seed, observed.seeds.seed),
            "memory.fits": (True, observed.memory.fits),
            "modules": (sorted(sizes), sorted(observed.modules)),
            "parameters": (sum(map(sum, sizes.values())), observed.parameters),
        }
        | {
            f"modules.{name}.parameters": (sum(sizes[name]), observed.modules[name].parameters)
            for name in sizes
            if name in observed.modules
        }
    )
    if (data.reader, data.reader_dtype) not in _readers(observed):
        yield "data.reader, data.reader_dtype", _readers(observed), (data.reader, data.reader_dtype)
    if not 1 <= observed.micro_batch_days <= observed.days_per_step:
        yield "micro_batch_days", f"1 to {observed.days_per_step} days", observed.micro_batch_days
    num_tensors = sum(map(len, sizes.values()))
    yield from _optimizer(spec, observed, num_tensors)
    yield from _scheduler(spec, observed)
    yield from _init_from(spec, observed, given.weights, num_tensors)


def _readers(observed: TrainingEvidence) -> list[tuple[str, str]]:
    """The row stores that the device and the precision allow."""
    resident = [("resident", "float32")] if observed.device == "cuda" else []
    halved = [("resident", "bfloat16")] if resident and observed.precision == "bfloat16" else []
    return [("mapped", "float32"), *resident, *halved]


def _optimizer(spec: RunSpec, observed: TrainingEvidence, num_tensors: int) -> Iterator[Difference]:
    row, found = spec.optimizer.row, observed.optimizer
    path = row.class_on(observed.device).path
    yield from unequal(
        {
            "optimizer.class": (path, found.class_path),
            "optimizer.module": (path.rpartition(".")[0], found.module),
            "optimizer.state_keys": (row.state_keys, found.state_keys),
            "optimizer.rectify": (row.switches.get("rectify"), found.rectify),
            "optimizer.weight_decouple": (row.switches.get("weight_decouple"), found.weight_decouple),
            "optimizer.param_groups": (1, len(found.param_groups)),
        }
    )
    group, requested = found.param_groups[0], spec.optimizer
    for name, expected, value in (
        ("lr", _rate(spec, _current_epoch(spec, len(observed.scheduler.lr_by_epoch))), group.lr),
        ("betas[0]", requested.betas[0], group.betas[0]),
        ("betas[1]", requested.betas[1], group.betas[1]),
        ("eps", requested.resolved_eps, group.eps),
        ("weight_decay", requested.weight_decay, group.weight_decay),
        ("parameters", num_tensors, group.parameters),
    ):
        if not math.isclose(expected, value, rel_tol=TOLERANCE):
            yield f"optimizer.param_groups.{name}", expected, value


def _current_epoch(spec: RunSpec, num_epochs: int) -> int:
    """The 0-based epoch whose rate is set after `num_epochs`: the next one, unless a phase or the run has ended."""
    ended = num_epochs >= spec.trainer.max_epochs or spec.trainer.phase_of(num_epochs)[1] == num_epochs
    return num_epochs - 1 if ended else num_epochs


def _rate(spec: RunSpec, epoch: int) -> float:
    phase, first = spec.trainer.phase_of(epoch)
    rate = phase.lr if phase.lr is not None else spec.optimizer.lr
    return spec.scheduler.learning_rate(rate, epoch - first, phase.epochs)


def _scheduler(spec: RunSpec, observed: TrainingEvidence) -> Iterator[Difference]:
    found, paths = observed.scheduler, spec.scheduler.class_paths
    yield from unequal(
        {"scheduler.class": (paths[-1], found.class_path), "scheduler.sequence": (paths, found.sequence)}
    )
    yield from _rates(spec, "scheduler", found.lr_by_epoch)


def _rates(spec: RunSpec, part: str, lr_by_epoch: Sequence[float]) -> Iterator[Difference]:
    if len(lr_by_epoch) > spec.trainer.max_epochs:
        yield f"{part}.lr_by_epoch", f"at most {spec.trainer.max_epochs} epochs", len(lr_by_epoch)
    for epoch, found in enumerate(lr_by_epoch):
        expected = _rate(spec, epoch)
        if not math.isclose(expected, found, rel_tol=TOLERANCE):
            yield f"{part}.lr_by_epoch, epoch {epoch + 1}", expected, found


def _init_from(
    spec: RunSpec, observed: TrainingEvidence, weights: GivenWeights | None, num_tensors: int
) -> Iterator[Difference]:
    """Check the files of the loaded weights, and that every module of the encoder was loaded."""
    requested = spec.source_job
    found = observed.init_from
    if requested is None or found is None or weights is None:
        if requested is not None or found is not None:
            yield "init_from", requested, found and found.job_id
        return
    yield from unequal(
        {
            "init_from.job_id": (requested, found.job_id),
            "init_from.task": (weights.task, found.task),
            "init_from.files": (dict(weights.sha256), found.files),
        }
    )
    for name in (name for name in spec.model.modules if name != "heads"):
        if not any(tensor.startswith(f"{name}.") for tensor in found.loaded):
            yield "init_from.loaded", f"module {name}", "left as initialized"
    left = [tensor for tensor in found.left if not tensor.startswith("heads.") or tensor in found.loaded]
    if left:
        yield "init_from.left", "tensors of the heads alone, where they were not loaded", left
    if len(found.loaded) + len(found.left) != num_tensors:
        yield "init_from.loaded, init_from.left", f"{num_tensors} tensors", [len(found.loaded), len(found.left)]


def _parts(spec: RunSpec | EnsembleSpec, run: RunSpec, observed: TrainingEvidence) -> Iterator[Difference]:
    """Check the trainings of which the run consists: its folds or members, or itself alone."""
    current = FoldEvidence(
        seed=run.seed,
        lr_by_epoch=observed.scheduler.lr_by_epoch,
        batches_by_epoch=observed.batches_by_epoch,
        samples_by_epoch=observed.samples_by_epoch,
        grad_norm_first_step={name: module.grad_norm_first_step for name, module in observed.modules.items()},
        best_epoch=1,
        ending=None,
    )
    members = isinstance(spec, EnsembleSpec)
    runs = spec.members if isinstance(spec, EnsembleSpec) else (run,) * run.split.num_splits
    several = len(runs) > 1
    yield from unequal(
        {
            "folds": (len(runs) if several and not members else None, observed.folds and len(observed.folds)),
            "members": (len(runs) if members else None, observed.members and len(observed.members)),
        }
    )
    parts = (observed.members if members else observed.folds) or []
    name = "members" if members else "folds"
    for number, (one, part) in enumerate(zip(runs, parts, strict=False)):
        yield from _part(one, f"{name}.{number}", part, observed, _train_stretches(observed, number))
        yield from unequal({f"{name}.{number}.seed": (one.seed, part.seed)})
        yield from _end(one, f"{name}.{number}", part)
    if several and parts:
        last = parts[-1]
        yield from unequal(
            {
                f"scheduler.lr_by_epoch, {name}.lr_by_epoch": (last.lr_by_epoch, current.lr_by_epoch),
                f"batches_by_epoch, {name}.batches_by_epoch": (last.batches_by_epoch, current.batches_by_epoch),
                f"samples_by_epoch, {name}.samples_by_epoch": (last.samples_by_epoch, current.samples_by_epoch),
            }
            | {
                f"modules.{module}.grad_norm_first_step, {name}.grad_norm_first_step": (
                    last.grad_norm_first_step.get(module),
                    norm,
                )
                for module, norm in current.grad_norm_first_step.items()
            }
        )
    else:
        yield from _part(run, "", current, observed, _train_stretches(observed, 0))
    yield from _totals(run, observed, parts or [current], f"{name}." if parts else "")
    last_step = mix(run.seed, len(current.lr_by_epoch) - 1, (current.batches_by_epoch or (0,))[-1] - 1)
    seeds = (last_step, mix(mix(run.seed)))  # the second where an attempt resumed after the last step
    if observed.seeds.torch_initial_seed not in seeds:
        yield "seeds.torch_initial_seed", last_step, observed.seeds.torch_initial_seed


def _part(
    spec: RunSpec, name: str, part: FoldEvidence, observed: TrainingEvidence, stretches: Sequence[int]
) -> Iterator[Difference]:
    """Check one training; `stretches` are the lengths of its stretches of consecutive training days."""
    prefix = f"{name}." if name else ""
    num_epochs, days = len(part.lr_by_epoch), max(1, observed.days_per_step)
    if name:
        yield from _rates(spec, name, part.lr_by_epoch)
    most = sum(-(-(length - 1) // days) + 1 for length in stretches)  # the first cut of a stretch is random
    most = min(most, spec.trainer.max_steps_per_epoch or most)
    if len(part.batches_by_epoch) != num_epochs or not all(1 <= batches <= most for batches in part.batches_by_epoch):
        expected = f"{num_epochs} epochs of at most {most} steps, days_per_step being {observed.days_per_step}"
        yield f"{prefix}batches_by_epoch", expected, part.batches_by_epoch
    if len(part.samples_by_epoch) != num_epochs or not all(samples > 0 for samples in part.samples_by_epoch):
        yield f"{prefix}samples_by_epoch", f"{num_epochs} epochs with samples", part.samples_by_epoch
    begun = [spec.trainer.phase_of(epoch)[0] for epoch in range(num_epochs)]
    trained = {module for phase in begun for module in phase.modules or spec.model.modules}
    for module in sorted(trained):
        norm = part.grad_norm_first_step.get(module)
        if not norm:
            where = f"{name}.grad_norm_first_step.{module}" if name else f"modules.{module}.grad_norm_first_step"
            yield where, "above 0", norm


def _end(spec: RunSpec, name: str, part: FoldEvidence) -> Iterator[Difference]:
    """Check when a fold was best and why it ended, which it says where it may have been stopped."""
    num_epochs, trainer = len(part.lr_by_epoch), spec.trainer
    if part.best_epoch is None or not 1 <= part.best_epoch <= num_epochs:
        yield f"{name}.best_epoch", f"1 to {num_epochs}", part.best_epoch
    patient = trainer.early_stopping is None or num_epochs < trainer.early_stopping.patience
    if num_epochs < trainer.max_epochs and part.ending is None:
        yield f"{name}.ending", f"why it ended before epoch {trainer.max_epochs}", None
    if part.ending is not None and patient and not trainer.stop_rules:
        yield f"{name}.ending", None, part.ending


def _totals(
    spec: RunSpec, observed: TrainingEvidence, parts: Sequence[FoldEvidence], prefix: str
) -> Iterator[Difference]:
    batches = [number for part in parts for number in part.batches_by_epoch]
    samples = [number for part in parts for number in part.samples_by_epoch]
    yield from unequal(
        {
            f"batches_per_epoch, the most of {prefix}batches_by_epoch": (
                max(batches, default=0),
                observed.batches_per_epoch,
            ),
            f"samples_per_epoch, the most of {prefix}samples_by_epoch": (
                max(samples, default=0),
                observed.samples_per_epoch,
            ),
        }
    )
    updates = sum(-(-number // spec.trainer.accumulate) for number in batches)
    if not 1 <= observed.updates <= updates:  # a step without any target makes no update
        yield "updates", f"at most {updates}", observed.updates


def _train_stretches(observed: TrainingEvidence, number: int) -> list[int]:
    """The lengths of a fold's stretches of training days; a run of one fold has a single stretch."""
    folds = observed.data.folds
    if folds is None:
        return [len(observed.data.train_days)]
    return [part.num_days for part in folds[number].train] if number < len(folds) else []


def _days(spec: RunSpec, observed: TrainingEvidence) -> Iterator[Difference]:
    """Check the days of every fold against a split planned anew on the days that were used."""
    data, window, horizon = observed.data, spec.data.window, max(spec.data.horizons)
    days = sorted({*data.train_days, *data.val_days, *data.test_days, *data.purged_days})
    try:
        plan = plan_split(len(days) + window + horizon, window, horizon, spec.split)
    except PydanticCustomError as error:
        yield "data.train_days", f"{spec.split.num_splits} folds", f"{len(days)} days: {error.message()}"
        return

    def stretches(ranges: DayRanges) -> list[Stretch]:
        positions = [range(part.start - window + 1, part.stop - window + 1) for part in ranges]
        return [Stretch(first=days[part[0]], last=days[part[-1]], num_days=len(part)) for part in positions]

    for role in ("train", "val", "test", "purged"):
        yield from _role_days(role, data, plan.folds, days, window)
    if len(plan.folds) == 1:
        resolved = leaf(observed.resolved.get("base", observed.resolved), "split.train_days")
        yield from unequal(
            {
                "data.folds": (None, data.folds),
                "data.train_days, resolved.split.train_days": (len(data.train_days), resolved),
            }
        )
        return
    found: list[FoldDays] = data.folds or []
    yield from unequal({"data.folds": (len(plan.folds), len(found))})
    for number, (fold, own) in enumerate(zip(plan.folds, found, strict=False)):
        for role in ("train", "val", "test", "purged"):
            yield from _unequal_stretches(
                f"data.folds.{number}.{role}", stretches(getattr(fold, role)), getattr(own, role)
            )


def _role_days(
    role: str, data: DataEvidence, folds: Sequence[Fold], days: Sequence[date], window: int
) -> Iterator[Difference]:
    """Check the days that are used so in any fold."""
    used = sorted({day - window + 1 for fold in folds for part in getattr(fold, role) for day in part})
    expected, found = [days[day] for day in used], getattr(data, f"{role}_days")
    if expected != found:
        first = next((str(day) for day, other in zip(found, expected, strict=False) if day != other), None)
        different = f"{len(found)} days" + (f", {first} first out of place" if first is not None else "")
        yield f"data.{role}_days", f"{len(expected)} days", different


def _unequal_stretches(path: str, expected: Sequence[Stretch], found: Sequence[Stretch]) -> Iterator[Difference]:
    yield from unequal({path: (f"{len(expected)} stretches", f"{len(found)} stretches")})
    for number, (one, other) in enumerate(zip(expected, found, strict=False)):
        for name in ("first", "last", "num_days"):
            pair = str(getattr(one, name)), str(getattr(other, name))
            yield from unequal({f"{path}.{number}.{name}": pair})
