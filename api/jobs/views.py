"""Response models built from database rows."""

from operator import attrgetter
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from fastapi import Response

from api.jobs.schemas import ArtifactView, JobSummary, JobView, Links, ProgressView, SubmittedView
from jobs.db.tables import ArtifactRow, Job
from jobs.record.actions import actions
from jobs.record.baselines import NO_VERDICT, Verdict
from jobs.record.queries import QueuePosition
from jobs.states import TERMINAL, JobState, Wanted

_WANTED_STATUS: Final = {Wanted.CANCEL: "cancelling", Wanted.PAUSE: "pausing", Wanted.PRUNE: "pruning"}


def etag(job: Job) -> str:
    return f'"{job.version}"'


def status(job: Job) -> str:
    """The state as one word for display: also cancelling, pausing, pruning, recovering."""
    if job.state in TERMINAL or job.state is JobState.PAUSED:
        return job.state.value
    if job.wanted in _WANTED_STATUS:
        return _WANTED_STATUS[job.wanted]
    return "recovering" if job.attempt > (job.state is JobState.RUNNING) else job.state.value


def _links(job_id: UUID) -> Links:
    own = f"/jobs/{job_id}"
    return {
        "self": own,
        "metrics": f"{own}/metrics",
        "events": f"{own}/events",
        "logs": f"{own}/logs",
        "evidence": f"{own}/evidence",
        "artifacts": f"{own}/artifacts",
        "cancel": f"{own}/cancel",
        "page": f"/ui{own}",
    }


_COPIED: Final = (
    "id", "kind", "parent_id", "source_job_id", "name", "tags", "state", "wanted", "reason", "message", "attempt",
    "max_attempts", "priority", "queue", "dataset", "dataset_fingerprint", "spec_digest", "metrics", "best",
    "created_at", "started_at", "finished_at", "worker",
)  # fmt: skip
_copied_values: Final = attrgetter(*_COPIED)


def _fields(job: Job, position: QueuePosition) -> dict[str, Any]:
    queue_position, pending_reason = position
    fields = dict(zip(_COPIED, _copied_values(job), strict=True))
    fields["status"] = status(job)
    fields["progress"] = ProgressView.model_validate(job.progress) if job.progress is not None else None
    fields["queue_position"] = queue_position
    fields["pending_reason"] = pending_reason
    fields["actions"] = actions(job)
    fields["links"] = _links(job.id)
    return fields


def job_summary(job: Job, position: QueuePosition) -> JobSummary:
    return JobSummary.model_construct(**_fields(job, position))


def job_view(job: Job, position: QueuePosition, verdict: Verdict = NO_VERDICT) -> JobView:
    """`verdict` may be left out of a job that is not over."""
    return JobView.model_construct(
        **_fields(job, position), spec=job.spec, verdict=verdict.text, baselines_job_id=verdict.baselines_job_id
    )


def submitted_view(response: Response, job: Job, position: QueuePosition, warnings: list[str]) -> SubmittedView:
    """The body of a 202; its headers are set on `response`. It has no verdict."""
    response.headers["Location"] = f"/jobs/{job.id}"
    response.headers["ETag"] = etag(job)
    return SubmittedView.model_construct(
        **_fields(job, position), spec=job.spec, verdict=None, baselines_job_id=None, warnings=warnings
    )


def artifact_view(row: ArtifactRow) -> ArtifactView:
    return ArtifactView(
        name=row.name,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        media_type=row.media_type,
        attempt=row.attempt,
        created_at=row.created_at,
        link=f"/jobs/{row.job_id}/artifacts/{quote(row.name)}",
    )
