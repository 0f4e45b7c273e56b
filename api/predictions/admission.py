"""Checks of a prediction against its model's job and its dataset before it is stored, and the plan of a dry run."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import PurePosixPath
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from api.http.errors import invalid
from api.predictions.schemas import PredictPlan
from api.training.admission import choose_queue, find_dataset, median_stocks_per_day, unwatched_queue_warnings
from api.training.split import observed_folds
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import TrainSpec
from atft.spec.model import num_parameters
from atft.spec.prediction import PredictSpec
from jobs.db.tables import ArtifactRow, Dataset, Job, Json
from jobs.errors import ArtifactNotFound, JobNotFound
from jobs.record import catalog, queries
from jobs.record.actions import Action, refusal

_FLOAT32_BYTES, _FLOAT64_BYTES = 4, 8
_MODEL_SPEC: Final = TypeAdapter[TrainSpec | EnsembleSpec](TrainSpec | EnsembleSpec)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmittedPrediction:
    """A checked prediction; `days` are the requested trading days, None if the dataset's files cannot be read.
    `weights` are those of an ensemble's members, else one.
    """

    model: Job
    train_spec: TrainSpec
    weights: list[ArtifactRow]
    features: tuple[str, ...]
    dataset: Dataset
    queue: str
    days: list[date] | None
    warnings: list[str]

    @property
    def weights_name(self) -> str:
        """The names of the weights, joined by ", "."""
        return ", ".join(row.name for row in self.weights)

    @property
    def weights_sha256(self) -> str:
        """Their SHA-256, joined by ", "."""
        return ", ".join(row.sha256 for row in self.weights)

    @property
    def params(self) -> Json:
        """The job's params: where the weights are, and the digests that identify them."""
        evidence: Json = self.model.evidence or {}
        return {
            "model": {
                "folder": str(PurePosixPath(self.weights[0].path).parent),
                "weights": self.weights_name,
                "sha256": self.weights_sha256,
                "spec_digest": self.model.spec_digest,
                "features_sha256": evidence["data"]["features_sha256"],
            }
        }


def admit(session: Session, spec: PredictSpec) -> AdmittedPrediction:
    """Check a prediction, but for its days. Raises Refused (422) naming the field that does not fit."""
    model, model_spec = _find_model(session, spec.model)
    train_spec = model_spec.run
    weights = _find_weights(session, model, model_spec, spec.fold)
    dataset = find_dataset(session, spec.dataset)
    resolved: Json = (model.evidence or {})["resolved"]
    features: tuple[str, ...] = tuple(resolved.get("base", resolved)["data"]["features"])
    _check_features(session, model, train_spec, features, dataset)
    live_queues = queries.live_queues(session)
    queue = choose_queue(spec.resources.queue, spec.resources.device, live_queues)
    return AdmittedPrediction(
        model=model,
        train_spec=train_spec,
        weights=weights,
        features=features,
        dataset=dataset,
        queue=queue,
        days=None,
        warnings=unwatched_queue_warnings(queue, live_queues),
    )


def select_days(admitted: AdmittedPrediction, spec: PredictSpec, all_days: Sequence[date] | None) -> AdmittedPrediction:
    """The prediction with its days of all of the dataset's, if known, and its warnings. Raises Refused (422)."""
    days, warnings = None, list(admitted.warnings)
    if all_days is not None:
        days = _days_in_range(all_days, spec)
        warnings += _day_warnings(admitted.model, admitted.train_spec, spec.fold, all_days, days)
    threads = (admitted.model.evidence or {}).get("threads", {}).get("limit")
    if threads != spec.resources.threads:
        warnings.append(
            f"the model was evaluated with {threads} threads and this requests {spec.resources.threads}: the last "
            "bits of the scores may differ from its evaluation's"
        )
    return replace(admitted, days=days, warnings=warnings)


def _find_model(session: Session, ref: str) -> tuple[Job, TrainSpec | EnsembleSpec]:
    try:
        model = queries.get(session, UUID(ref))
    except (ValueError, JobNotFound) as error:
        raise invalid(
            "/model", f"{ref!r} is no job: give the id of a training job, trial or ensemble", "unknown_model"
        ) from error
    if (refused := refusal(model, Action.PREDICT)) is not None:
        raise invalid("/model", refused, "no_model")
    try:
        return model, _MODEL_SPEC.validate_python(model.spec)
    except ValidationError as error:
        raise invalid("/model", f"the spec of job {ref} is of another version: train it again", "no_model") from error


def _find_weights(session: Session, model: Job, spec: TrainSpec | EnsembleSpec, fold: int | None) -> list[ArtifactRow]:
    folds, num_members = spec.run.split.num_splits, len(spec.members)
    if fold is None and folds > 1:
        raise invalid(
            "/fold", f"job {model.id} has {folds} folds, each with weights of its own: say which, 1 to {folds}"
        )
    if fold is not None and fold > folds:
        raise invalid("/fold", f"job {model.id} has {folds} fold{'s' * (folds > 1)}: there is no fold {fold}")
    if num_members > 1:
        names = [f"best.{number}.safetensors" for number in range(1, num_members + 1)]
    else:
        names = ["best.safetensors" if folds == 1 else f"best.{fold}.safetensors"]
    try:
        return [catalog.artifact(session, model.id, name) for name in names]
    except ArtifactNotFound as error:
        message = f"the weights of job {model.id} are not kept any more: train it again (a trial: promote it)"
        raise invalid("/model", message, "no_model") from error


def _check_features(
    session: Session, model: Job, train_spec: TrainSpec, features: tuple[str, ...], dataset: Dataset
) -> None:
    """Raises Refused unless this dataset has the model's input columns in the same order, made by the same formulas."""
    manifest = dataset.manifest
    columns = (*manifest["feature_names"], *manifest["market_names"])
    missing = [h for h in train_spec.data.horizons if h not in manifest["horizons"]]
    if missing:
        message = f"dataset {dataset.name!r} has the horizons {manifest['horizons']}, the model also {missing}"
        raise invalid("/dataset", message, "missing_horizons")
    found = columns if train_spec.data.features is None else tuple(name for name in columns if name in features)
    if set(found) != set(features):
        lacks, more = [n for n in features if n not in found], [n for n in found if n not in features]
        parts = [f"lacks {lacks[:10]}" * bool(lacks), f"has {more[:10]} besides" * bool(more)]
        message = (
            f"the features of dataset {dataset.name!r} are not the model's: it {' and '.join(filter(None, parts))}"
        )
        raise invalid("/dataset", message, "other_features")
    if train_spec.data.features is None and found != features:
        message = f"dataset {dataset.name!r} has the model's features in another order: build it as the model's was"
        raise invalid("/dataset", message, "other_features")
    training_manifest = _training_manifest(session, model.dataset_fingerprint)
    swapped = sorted(({*training_manifest["market_names"]} ^ {*manifest["market_names"]}) & {*features})
    if swapped:
        message = (
            f"{swapped[:10]} are columns of the market in one of the model's data and dataset {dataset.name!r} only"
        )
        raise invalid("/dataset", message, "other_features")
    for part in ("feature_formulas", "normalisation"):
        before, now = (_select(one.get(part, {}), features) for one in (training_manifest, manifest))
        changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        if changed:
            message = f"{changed[:10]} of dataset {dataset.name!r} have another {part} than the model learnt from"
            raise invalid("/dataset", message, "other_features")


def _training_manifest(session: Session, fingerprint: str | None) -> Json:
    """The manifest of the model's training data, whose row is kept when the dataset is deleted."""
    query = sa.select(Dataset.manifest).where(Dataset.fingerprint == fingerprint).limit(1)
    return session.scalars(query).one()


def _select(entries: Json, features: tuple[str, ...]) -> Json:
    """The entries of `features`; all of them if they are not by feature (normalisation is by kind of column)."""
    named = {name: entries[name] for name in features if name in entries}
    return named or entries


def _days_in_range(days: Sequence[date], spec: PredictSpec) -> list[date]:
    first, last = bisect.bisect_left(days, spec.from_day), bisect.bisect_right(days, spec.to_day)
    if first == last:
        requested, available = f"{spec.from_day} to {spec.to_day}", f"{days[0]} to {days[-1]}"
        message = f"the dataset has no trading day from {requested}: its days are {available}"
        raise invalid("/from_day", message, "no_days")
    return list(days[first:last])


def _day_warnings(
    model: Job, train_spec: TrainSpec, fold: int | None, all_days: Sequence[date], days: Sequence[date]
) -> list[str]:
    """Warnings of days without enough history, and of days that are not out of sample."""
    warnings, start = [], bisect.bisect_left(all_days, days[0])
    short = min(len(days), train_spec.data.window - 1 - start)
    if short > 0:
        warnings.append(f"the first {short} of the days have no {train_spec.data.window} days of history: null scores")
    chosen = (observed_folds((model.evidence or {})["data"]) or [])[(fold or 1) - 1]
    last = max(part.last for part in (*chosen.train, *chosen.val))
    labelled_days = (
        bisect.bisect_right(all_days, last) + max(train_spec.data.horizons) + 1
    )  # number of days up to the end of its label
    learned = min(len(days), labelled_days - start)
    if learned > 0:
        warnings.append(
            f"the first {learned} of the days are no later than the labels that the model has learnt from (its last "
            f"validation or training day is {last}): their scores are not out of sample"
        )
    return warnings


def plan(session: Session, spec: PredictSpec, admitted: AdmittedPrediction) -> PredictPlan:
    """The plan of a dry run."""
    train_spec, days = admitted.train_spec, admitted.days
    rows = None if days is None else len(days) * median_stocks_per_day(admitted.dataset)
    speed = (admitted.model.progress or {}).get("samples_per_second")
    horizons, num_networks = len(train_spec.data.horizons), len(admitted.weights)
    score_bytes = _FLOAT64_BYTES if num_networks > 1 else _FLOAT32_BYTES
    return PredictPlan(
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest(),
        warnings=admitted.warnings,
        dataset_fingerprint=admitted.dataset.fingerprint,
        weights=admitted.weights_name,
        weights_sha256=admitted.weights_sha256,
        num_parameters=num_parameters(train_spec.model, len(admitted.features), horizons, train_spec.data.window),
        horizons=list(train_spec.data.horizons),
        first_day=days[0] if days else None,
        last_day=days[-1] if days else None,
        num_days=None if days is None else len(days),
        estimated_rows=rows,
        estimated_seconds=round(num_networks * rows / speed, 1) if rows is not None and speed else None,
        estimated_bytes=None if rows is None else rows * (score_bytes * horizons + 2 * _FLOAT32_BYTES),
        queue=admitted.queue,
        queue_position=queries.jobs_ahead(session, admitted.queue, spec.resources.priority),
    )
