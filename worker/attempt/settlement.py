"""What an attempt comes to, and the one transaction that says so."""

import errno
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy.orm import Session

from atft.events import Finished
from atft.spec.prediction import PredictSpec
from jobs.db.tables import Job, Json
from jobs.record import catalog, history, init_from, lifecycle, reruns
from jobs.record.caches import lock_cache
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason
from worker.attempt import prediction_evidence
from worker.attempt.artifacts import Missing, Output, collect, place_cache
from worker.attempt.child import Exit
from worker.attempt.evidence import differences
from worker.attempt.launch import Launch
from worker.attempt.outcome import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A dataset's cache in its place; `path` is relative to the run root, `place` is where that is."""

    place: Path
    path: str
    size_bytes: int
    manifest: Json
    profile: Json
    leak_report: Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """`exit` is null when no child was started."""

    verdict: Verdict
    exit: Exit | None = None
    log_tail: str | None = None
    outputs: tuple[Output, ...] = ()
    built: Built | None = None

    def write(self, session: Session, job: Job, delay_seconds: float) -> JobState:
        """Settle the attempt with all it leaves, in the caller's transaction; returns a state. Raises StaleAttempt."""
        verdict = self.verdict
        if self.built is not None and not lock_cache(session, self.built.place):
            message = "its cache is not there any more: it is built again"
            verdict = Verdict(to=JobState.QUEUED, reason=Reason.DATA_CHANGED, message=message, counts=True)
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
        if self.built is not None and verdict.to is JobState.SUCCEEDED:
            catalog.register_dataset(
                session,
                job,
                name=job.spec["name"],
                fingerprint=self.built.manifest["fingerprint"],
                spec=job.spec,
                manifest=self.built.manifest,
                profile=self.built.profile,
                leak_report=self.built.leak_report,
                path=self.built.path,
                size_bytes=self.built.size_bytes,
            )
        code, signal = (self.exit.code, self.exit.signal) if self.exit else (None, None)
        if verdict.to is JobState.QUEUED:
            return lifecycle.requeue(
                session,
                job.id,
                job.attempt,
                reason=verdict.reason or Reason.INTERNAL,
                message=verdict.message or "",
                counts_as_failure=verdict.counts,
                delay_seconds=delay_seconds,
                overrides=verdict.overrides,
                exit_code=code,
                signal=signal,
                log_tail=self.log_tail,
            )
        lifecycle.settle(
            session,
            job.id,
            job.attempt,
            verdict.to,
            reason=verdict.reason,
            message=self._drift(session, job) if verdict.to is JobState.SUCCEEDED else verdict.message,
            exit_code=code,
            signal=signal,
            log_tail=self.log_tail,
        )
        return verdict.to

    def _drift(self, session: Session, job: Job) -> str | None:
        """Of a rerun: what came out differently, kept with the evidence; in words for the job's message."""
        fingerprint = self.built.manifest["fingerprint"] if self.built is not None else job.dataset_fingerprint
        now = history.lock_running(session, job.id, job.attempt)
        found = reruns.drift(session, now, fingerprint=fingerprint)
        if found is None:
            return self.verdict.message
        history.set_evidence(session, job.id, job.attempt, (now.evidence or {}) | {"drift": found})
        return reruns.summary(found)


def failure(error: Missing | OSError) -> Verdict:
    """What an output that is not whole means for the job. Raises `error` again when it is about something else."""
    if isinstance(error, Missing):
        return Verdict(to=JobState.FAILED, reason=Reason.INTERNAL, message=str(error))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Verdict(to=JobState.FAILED, reason=Reason.DISK_FULL, message=f"the disk is full: {error}")
    raise error


def accept(
    settings: Settings, job: Job, start: Launch, finished: Finished, evidence: Json | None, settlement: Settlement
) -> Settlement:
    """Check the word of a child that says it has finished: the evidence first, then every declared output."""
    try:
        if job.kind is JobKind.DATASET:
            return _accept_dataset(settings, start.folder, finished, settlement)
        if job.kind is JobKind.PREFLIGHT:  # nothing has been trained that could be proved
            return settlement
        found = _differences(job, start, evidence)
        if found:
            verdict = Verdict(
                to=JobState.FAILED,
                reason=Reason.EVIDENCE_MISMATCH,
                message="what ran is not what was asked: " + "; ".join(found),
            )
            return replace(settlement, verdict=verdict)
        return replace(settlement, outputs=tuple(collect(settings, start.folder, finished.artifacts)))
    except (Missing, OSError) as error:
        return replace(settlement, verdict=failure(error))


def _differences(job: Job, start: Launch, evidence: Json | None) -> list[str]:
    if evidence is None:
        return ["the program sent no evidence"]
    try:
        if job.kind is JobKind.PREDICT:
            asked = PredictSpec.model_validate(job.spec)
            return prediction_evidence.differences(asked, evidence, job=job, threads=start.threads)
        spec = init_from.trained_spec(job)
    except ValidationError as error:
        return [f"the job's spec no longer validates: {error}"]
    weights = start.weights.sha256 if start.weights is not None else None
    return differences(spec, evidence, fingerprint=job.dataset_fingerprint, threads=start.threads, weights=weights)


def _accept_dataset(settings: Settings, folder: Path, finished: Finished, settlement: Settlement) -> Settlement:
    """A built cache goes to its place; where the program says that the content is there already, it stays as it is."""
    profile, leak_report = (_part(finished, name) for name in ("profile", "leak_report"))
    manifest = _part(finished, "manifest")
    place = place_cache(settings, folder / "cache", str(manifest.get("fingerprint", "")))
    built = Built(
        place=place,
        path=str(place.relative_to(settings.run_root.resolve())),
        size_bytes=sum(file.stat().st_size for file in place.rglob("*") if file.is_file()),
        manifest=manifest,
        profile=profile,
        leak_report=leak_report,
    )
    return replace(settlement, outputs=tuple(collect(settings, folder, finished.artifacts)), built=built)


def _part(finished: Finished, name: str) -> Json:
    part = finished.result.get(name)
    if not isinstance(part, dict):
        raise Missing(f"the program gave no {name}")
    return part
