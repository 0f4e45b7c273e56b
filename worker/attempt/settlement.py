"""The settlement of an attempt: its outcome and outputs, written in one transaction."""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple, cast

from pydantic import ValidationError
from sqlalchemy.orm import Session

from atft.events import Finished
from atft.evidence import prediction, training
from atft.evidence.comparison import Given
from atft.spec.base import Spec
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec
from atft.spec.kinds import KINDS
from atft.spec.prediction import PredictSpec
from jobs.db.tables import Job, Json
from jobs.record import baselines, catalog, history, lifecycle, reruns, stored
from jobs.record.caches import lock_cache, move_damaged_to_trash
from jobs.settings import Settings
from jobs.states import JobState, Reason
from worker.attempt.artifacts import MissingOutput, Output, collect_outputs, install_cache
from worker.attempt.child import ExitStatus
from worker.attempt.launch import Launch
from worker.attempt.outcome import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltCache:
    """A dataset's cache in its folder, and the version to register."""

    folder: Path
    dataset: catalog.NewDataset
    found: bool  # it was there already: nothing was built

    def is_altered(self, session: Session) -> bool:
        """Whether a found cache describes itself otherwise than the registered versions of the same content do."""
        new = self.dataset
        described = [new.manifest.get("files"), new.profile, new.leak_report]
        rows = catalog.versions_with_content(session, new.fingerprint) if self.found else []
        known = [[row.manifest.get("files"), row.profile, row.leak_report] for row in rows]
        return not all(stored.agrees(described, each) and stored.agrees(each, described) for each in known)


class Settled(NamedTuple):
    """What a settlement has written: the job's new state, and a job that may start now, if there is one: the same job
    again, or that of its baselines.
    """

    state: JobState
    due: Job | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """`exit_status` is null when no child was started."""

    outcome: Outcome
    exit_status: ExitStatus | None = None
    log_tail: str | None = None
    outputs: tuple[Output, ...] = ()
    built: BuiltCache | None = None

    def write(self, session: Session, job: Job, delay_seconds: float) -> "Settled":
        """Write outcome and outputs in the caller's transaction. Raises StaleAttempt."""
        outcome = self.outcome
        if self.built is not None and not lock_cache(session, self.built.folder):
            message = "its cache is not there any more: it is built again"
            outcome = Outcome(to=JobState.QUEUED, reason=Reason.DATA_CHANGED, message=message, counts_as_failure=True)
        elif self.built is not None and self.built.is_altered(session):
            trash = move_damaged_to_trash(session, self.built.folder)
            message = f"the cache was damaged and is built again (it is kept as {trash.name} until it is cleaned up)"
            outcome = Outcome(to=JobState.QUEUED, reason=Reason.DATA_CHANGED, message=message, counts_as_failure=True)
        for output in self.outputs:
            catalog.add_artifact(
                session,
                job.id,
                job.attempt,
                name=output.name,
                path=output.path,
                size_bytes=output.size_bytes,
                sha256=output.sha256,
                media_type=output.media_type,
            )
        if self.built is not None and outcome.to is JobState.SUCCEEDED:
            catalog.register_dataset(session, job, self.built.dataset)
        succeeded = outcome.to is JobState.SUCCEEDED
        end = lifecycle.AttemptEnd(
            reason=outcome.reason,
            message=self._record_drift(session, job) if succeeded else outcome.message,
            exit_code=self.exit_status.code if self.exit_status else None,
            signal=self.exit_status.signal if self.exit_status else None,
            log_tail=self.log_tail,
        )
        if outcome.to is JobState.QUEUED:
            state = lifecycle.requeue(
                session,
                job.id,
                job.attempt,
                end,
                counts_as_failure=outcome.counts_as_failure,
                delay_seconds=delay_seconds,
                overrides=outcome.overrides,
            )
            return Settled(state, job if state is JobState.QUEUED and not delay_seconds else None)
        submitted = baselines.request(session, job) if succeeded else None
        lifecycle.settle(session, job.id, job.attempt, outcome.to, end)
        return Settled(outcome.to, submitted)

    def _record_drift(self, session: Session, job: Job) -> str | None:
        """Record a rerun's differences from its source job in the evidence; returns their summary."""
        fingerprint = self.built.dataset.fingerprint if self.built is not None else job.dataset_fingerprint
        now = history.lock_running(session, job.id, job.attempt)
        found = reruns.drift(session, now, fingerprint=fingerprint)
        if found is None:
            return self.outcome.message
        history.set_evidence(session, job.id, job.attempt, (now.evidence or {}) | {"drift": found})
        return reruns.summary(found)


def outcome_of_output_error(error: MissingOutput | OSError) -> Outcome:
    """The outcome for a missing output or a full disk. Re-raises any other `error`."""
    if isinstance(error, MissingOutput):
        return Outcome(to=JobState.FAILED, reason=Reason.INTERNAL, message=str(error))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Outcome(to=JobState.FAILED, reason=Reason.DISK_FULL, message=f"the disk is full: {error}")
    raise error


def check_result(
    settings: Settings, job: Job, launch: Launch, finished: Finished, evidence: Json | None, settlement: Settlement
) -> Settlement:
    """Check a child that emitted Finished: its evidence first, then every declared output."""
    try:
        if KINDS[job.kind].builds:
            return _check_dataset(settings, job, launch.folder, finished, settlement)
        found = _evidence_differences(job, launch, evidence)
        if found:
            outcome = Outcome(
                to=JobState.FAILED,
                reason=Reason.EVIDENCE_MISMATCH,
                message="what ran is not what was asked: " + "; ".join(found),
            )
            return replace(settlement, outcome=outcome)
        return replace(settlement, outputs=tuple(collect_outputs(settings, launch.folder, finished.artifacts)))
    except (MissingOutput, OSError) as error:
        return replace(settlement, outcome=outcome_of_output_error(error))


def _evidence_differences(job: Job, launch: Launch, evidence: Json | None) -> list[str]:
    check = _EVIDENCE_CHECKS.get(KINDS[job.kind].evidence)
    if check is None:
        return []
    if evidence is None:
        return ["the program sent no evidence"]
    try:
        spec = KINDS[job.kind].spec.model_validate(job.spec)
    except ValidationError as error:
        return [f"the job's spec no longer validates: {error}"]
    return check(spec, job, launch, evidence)


def _training_differences(spec: Spec, job: Job, launch: Launch, evidence: Json) -> list[str]:
    source = launch.weights
    given = training.GivenTraining(
        fingerprint=job.dataset_fingerprint,
        threads=launch.threads,
        environment=launch.environment,
        weights=training.GivenWeights(task=source.task, sha256=source.sha256) if source is not None else None,
    )
    return training.differences(cast("RunSpec | EnsembleSpec", spec), evidence, given)


def _prediction_differences(spec: Spec, job: Job, launch: Launch, evidence: Json) -> list[str]:
    given = Given(fingerprint=job.dataset_fingerprint, threads=launch.threads, environment=launch.environment)
    weights = (job.params or {}).get("model", {})
    return prediction.differences(cast("PredictSpec", spec), evidence, given, weights)


_EVIDENCE_CHECKS: Final[Mapping[str | None, Callable[[Spec, Job, Launch, Json], list[str]]]] = {
    "training": _training_differences,
    "prediction": _prediction_differences,
}


def _check_dataset(
    settings: Settings, job: Job, folder: Path, finished: Finished, settlement: Settlement
) -> Settlement:
    """A built cache goes to its place; where the program says that the content is there already, it stays as it is."""
    profile, leak_report = (_result_part(finished, name) for name in ("profile", "leak_report"))
    manifest = _result_part(finished, "manifest")
    found = not (folder / "cache").is_dir()
    folder = install_cache(settings, folder / "cache", str(manifest.get("fingerprint", "")))
    dataset = catalog.NewDataset(
        name=job.spec["name"],
        fingerprint=manifest["fingerprint"],
        spec=job.spec,
        path=str(folder.relative_to(settings.run_root.resolve())),
        size_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        manifest=manifest,
        profile=profile,
        leak_report=leak_report,
    )
    built = BuiltCache(folder=folder, dataset=dataset, found=found)
    return replace(settlement, outputs=tuple(collect_outputs(settings, folder, finished.artifacts)), built=built)


def _result_part(finished: Finished, name: str) -> Json:
    part = finished.result.get(name)
    if not isinstance(part, dict):
        raise MissingOutput(f"the program gave no {name}")
    return part
