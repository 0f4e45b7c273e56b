"""Checks of a training job against its dataset before it is stored, and the plan of a dry run.

The arithmetic is that of `atft.spec`, which the training process uses too: what is refused here would fail there.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, TypeVar

import sqlalchemy as sa
from pydantic_core import PydanticCustomError
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from api.http.errors import Refused, invalid
from api.training import init_from
from api.training.schemas import Plan
from api.training.split import planned_folds
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec
from atft.spec.kinds import kinds_where
from atft.spec.model import WITHOUT_NEIGHBOURS
from atft.spec.split_plan import Fold, SplitPlan, count, plan_split
from jobs.broker.queue import CPU, GPU
from jobs.db.tables import Dataset, Job
from jobs.errors import DatasetNotFound
from jobs.record import catalog, queries
from jobs.states import ACTIVE, BUILDING, JobState

Result = TypeVar("Result")
_KEPT_CHECKPOINTS: Final = 3  # the last two and the best
_ARRAYS_PER_CHECKPOINT: Final = 3  # weights and two moments
_FLOAT32_BYTES: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmittedRun:
    """A checked training, ensemble or pretraining, with its queue, warnings and split."""

    dataset: Dataset
    queue: str
    warnings: list[str]
    split: SplitPlan
    num_features: int
    stocks_per_day: int


def choose_queue(requested: str, device: str, live_queues: set[str]) -> str:
    """The queue that a job goes to: `auto` means the GPU queue if a live worker watches it and the device allows it."""
    if requested != "auto":
        return requested
    if device == "auto":
        return GPU if GPU in live_queues else CPU
    return GPU if device == "cuda" else CPU


def unwatched_queue_warnings(queue: str, live_queues: set[str]) -> list[str]:
    """One warning if no live worker watches the queue."""
    return [] if queue in live_queues else [f"no live worker watches queue {queue}: the job waits until one starts"]


def _refuse_at_pointer(check: Callable[[], Result]) -> Result:
    """The result of `check`; its PydanticCustomError becomes Refused (422) at the error's pointer into the spec."""
    try:
        return check()
    except PydanticCustomError as error:
        raise invalid(str((error.context or {}).get("pointer", "")), error.message()) from error


def find_dataset(session: Session, ref: str) -> Dataset:
    """The dataset version that `ref` (`name` or `name@version`) names. Raises Refused (422) at /dataset."""
    try:
        return catalog.dataset(session, ref)
    except DatasetNotFound as error:
        building = (
            sa.select(Job.id)
            .where(Job.kind.in_(BUILDING), Job.dataset == ref.partition("@")[0], Job.state.in_(ACTIVE))
            .limit(1)
        )
        job_id = session.scalar(building)
        detail = (
            f"dataset {ref!r} is still being built by job {job_id}: submit when that has succeeded"
            if job_id
            else str(error)
        )
        raise invalid("/dataset", detail, "unknown_dataset") from error


def prefix_pointers(error: Refused, prefix: str) -> Refused:
    """A copy of the refusal with `prefix` before each JSON pointer, for a spec nested in another."""
    errors = [one.model_copy(update={"pointer": prefix + (one.pointer or "")}) for one in error.errors]
    return Refused(error.status_code, error.code, str(error.detail), errors=errors)


def admit(session: Session, spec: RunSpec | EnsembleSpec) -> AdmittedRun:
    """Check a spec against its dataset. Raises Refused (422) naming the field that does not fit."""
    if spec.run is not spec:
        try:
            return admit(session, spec.run)
        except Refused as error:
            raise prefix_pointers(error, spec.run_pointer) from error
    return _admit_run(session, spec.run)


def _admit_run(session: Session, spec: RunSpec) -> AdmittedRun:
    dataset = find_dataset(session, spec.dataset)
    manifest = dataset.manifest
    features: list[str] = manifest["feature_names"]
    market: list[str] = manifest["market_names"]
    missing_horizons = [h for h in spec.data.horizons if h not in manifest["horizons"]]
    if missing_horizons:
        raise invalid(
            "/data/horizons",
            f"dataset {dataset.name!r} has the horizons {manifest['horizons']}, not {missing_horizons}",
        )
    if spec.data.features is not None:
        known = [*features, *market]
        unknown = [name for name in spec.data.features if name not in known]
        if unknown:
            shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
            raise invalid(
                "/data/features",
                f"dataset {dataset.name!r} has no feature {', '.join(map(repr, unknown))}; it has {shown}",
                "missing_features",
            )
    split = _refuse_at_pointer(
        lambda: plan_split(manifest["num_days"], spec.data.window, max(spec.data.horizons), spec.split)
    )
    stocks = median_stocks_per_day(dataset)
    if stocks < spec.data.min_names:
        raise invalid(
            "/data/min_names",
            f"a day of dataset {dataset.name!r} has {stocks} stocks (median), below min_names {spec.data.min_names}",
        )
    init_from.check(session, spec, dataset)
    if days_per_step(spec, stocks) < spec.min_days_per_step:
        raise invalid(
            "/trainer/batch_size",
            f"contrast_weight compares successive days, and a step of {spec.trainer.batch_size} samples has one day of "
            f"{stocks} stocks: give at least {spec.min_days_per_step * stocks}",
        )
    live_queues = queries.live_queues(session)
    queue = choose_queue(spec.resources.queue, spec.resources.device, live_queues)
    return AdmittedRun(
        dataset=dataset,
        queue=queue,
        warnings=[*unwatched_queue_warnings(queue, live_queues), *graph_warnings(spec, dataset, split)],
        split=split,
        stocks_per_day=stocks,
        num_features=len(features) + len(market) if spec.data.features is None else len(spec.data.features),
    )


def graph_warnings(spec: RunSpec, dataset: Dataset, split: SplitPlan) -> list[str]:
    """One warning if the graph can have no edge on any training day of a fold."""
    if not spec.model.use_gat:
        return []
    has_sectors = bool(dataset.profile.get("num_sectors"))
    num_days = min(fold.train[-1].stop for fold in split.folds)
    reason = spec.graph.edgeless_reason(num_days, has_sectors=has_sectors)
    return [f"the graph has no edges to train with, as {reason}: {WITHOUT_NEIGHBOURS}"] if reason else []


def median_stocks_per_day(dataset: Dataset) -> int:
    """Median number of stocks per day by the profile, or the mean by the manifest if the profile has no median."""
    known = dataset.profile.get("names_per_day", {}).get("median")
    return int(known) if known is not None else round(dataset.manifest["num_rows"] / dataset.manifest["num_days"])


def plan(
    session: Session, requested: RunSpec | EnsembleSpec, admitted: AdmittedRun, days: Sequence[date] | None
) -> Plan:
    """The plan of a dry run: size, days, estimated time and disk, queue position. `days` are the dataset's or null."""
    spec, members = requested.run, len(requested.members)
    parameters = spec.num_parameters(admitted.num_features)
    folds = admitted.split.folds
    largest = max(folds, key=lambda fold: count(fold.train))
    steps = _steps_per_epoch(spec, largest, admitted.stocks_per_day)
    rate = _measured_samples_per_second(session, spec, admitted.queue)
    samples_per_fold = [_samples_per_epoch(spec, fold, admitted.stocks_per_day) for fold in folds]
    copies = _ARRAYS_PER_CHECKPOINT * _KEPT_CHECKPOINTS + members * len(folds) - 1
    return Plan(
        spec=requested.model_dump(mode="json"),
        spec_digest=requested.digest(),
        warnings=admitted.warnings,
        dataset_fingerprint=admitted.dataset.fingerprint,
        num_parameters=parameters,
        num_folds=len(folds),
        num_members=members,
        epochs=spec.trainer.max_epochs,
        days_per_step=days_per_step(spec, admitted.stocks_per_day),
        steps_per_epoch=steps,
        samples_per_epoch=max(samples_per_fold),
        num_train_days=count(largest.train),
        num_val_days=count(largest.val),
        num_test_days=count(largest.test),
        folds=None if days is None else planned_folds(admitted.split, days),
        estimated_seconds=None
        if rate is None
        else round(members * sum(samples_per_fold) * spec.trainer.max_epochs / rate, 1),
        estimated_bytes=parameters * _FLOAT32_BYTES * copies,
        queue=admitted.queue,
        queue_position=queries.jobs_ahead(session, admitted.queue, spec.resources.priority),
    )


def days_per_step(spec: RunSpec, stocks_per_day: int) -> int:
    """Whole trading days in a step of `batch_size` samples."""
    return max(1, round(spec.trainer.batch_size / stocks_per_day))


def _steps_per_epoch(spec: RunSpec, fold: Fold, stocks_per_day: int) -> int:
    steps = math.ceil(count(fold.train) / days_per_step(spec, stocks_per_day))
    max_steps = spec.trainer.max_steps_per_epoch
    return steps if max_steps is None else min(steps, max_steps)


def _samples_per_epoch(spec: RunSpec, fold: Fold, stocks_per_day: int) -> int:
    steps = _steps_per_epoch(spec, fold, stocks_per_day)
    return min(steps * days_per_step(spec, stocks_per_day), count(fold.train)) * stocks_per_day


def _measured_samples_per_second(session: Session, spec: RunSpec, queue: str) -> float | None:
    """Median throughput of the last 20 finished jobs with this model and window on this queue, if any."""
    speed = Job.progress["samples_per_second"].as_float()
    same = (
        Job.kind.in_(kinds_where(lambda kind: kind.path is not None and kind.spec is type(spec))),
        Job.state == JobState.SUCCEEDED,
        Job.queue == queue,
        speed > 0,
        Job.spec["model"] == sa.literal(spec.model.model_dump(mode="json"), JSONB),
        Job.spec["data"]["window"].as_integer() == spec.data.window,
    )
    rates = session.scalars(sa.select(speed).where(*same).order_by(Job.finished_at.desc()).limit(20)).all()
    return statistics.median(rates) if rates else None
