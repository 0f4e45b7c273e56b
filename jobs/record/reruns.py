"""Retries and reruns, which submit an earlier job's spec as a new job: a retry resumes a job that failed or was
cancelled, a rerun repeats one that succeeded and reports the drift between the two.
"""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Final
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from atft.spec.kinds import KINDS
from jobs.db.tables import ArtifactRow, Job, Json
from jobs.errors import IllegalTransition, PreconditionFailed
from jobs.record import baselines, history
from jobs.record.actions import Action, refusal
from jobs.record.queries import get
from jobs.record.rewind import copy_checkpoint
from jobs.record.submission import NewJob, Submitted, submit
from jobs.states import Reason

RERUN_OF: Final = "rerun_of"  # the key of `Job.params` that makes a job a rerun
MAX_SHOWN: Final = 50
_WEIGHTS: Final = "best.%safetensors"  # one file, or one for each fold or member
_ENVIRONMENT: Final = ("device", "device_name", "precision", "host", "micro_batch_days", "git")  # of the evidence


class RerunKind(StrEnum):
    """Whether to resume an unsuccessful job or to repeat a successful one."""

    RETRY = "retry"
    RERUN = "rerun"


# Excludes system and timing metrics, which differ from run to run without any difference in results.
_DRIFT: Final = text("""
    WITH a AS (SELECT name, step, value FROM metrics WHERE job_id = :source),
         b AS (SELECT name, step, value FROM metrics WHERE job_id = :rerun)
    SELECT name, count(*) AS points,
           count(*) FILTER (WHERE a.value IS DISTINCT FROM b.value) AS different_points,
           min(step) FILTER (WHERE a.value IS DISTINCT FROM b.value) AS first_step,
           max(abs(a.value - b.value)) AS largest_difference,
           (array_agg(a.value ORDER BY step DESC))[1] AS source, (array_agg(b.value ORDER BY step DESC))[1] AS rerun
    FROM a FULL JOIN b USING (name, step)
    WHERE name !~ '^(system|time)[./]'
    GROUP BY name ORDER BY largest_difference DESC NULLS FIRST, name""")


def submit_rerun(
    session: Session,
    job_id: UUID,
    kind: RerunKind,
    *,
    by: str,
    expected_version: int | None = None,
    idempotency: tuple[str, str] | None = None,
    max_unfinished: int | None = None,
) -> Submitted:
    """Submit a new job with the spec of an earlier one. Raises IllegalTransition, PreconditionFailed,
    DatasetNotFound (its dataset version was deleted), IdempotencyMismatch, QuotaExceeded.
    """
    source = get(session, job_id)
    if expected_version is not None and source.version != expected_version:
        raise PreconditionFailed(f"job {job_id} has changed: its version is {source.version}")
    if (refused := refusal(source, Action(kind))) is not None:
        raise IllegalTransition(refused)
    rerun = kind is RerunKind.RERUN
    new = NewJob(
        kind=source.kind,
        spec=source.spec,
        spec_digest=source.spec_digest,
        queue=source.queue,
        name=source.name,
        tags=source.tags,
        priority=source.priority,
        max_attempts=source.max_attempts,
        dataset=source.dataset,
        dataset_fingerprint=None if KINDS[source.kind].builds else source.dataset_fingerprint,
        source_job_id=source.id,
        params=_params(source, rerun),
        queue_timeout_seconds=source.run.get("resources", {}).get("queue_timeout_seconds"),
        created_by=by,
        overrides=_overrides_as_run(source) if rerun else source.overrides,
    )
    submitted = submit(session, new, idempotency=idempotency, max_unfinished=max_unfinished)
    if submitted.created:
        if not rerun and source.reason is not Reason.DATA_CHANGED:  # it may have learnt from altered bytes
            copy_checkpoint(session, submitted.job, source)
        message = f"{kind} of job {source.id}"
        if submitted.job.checkpoint is not None:
            message += f", from its checkpoint of epoch {submitted.job.checkpoint['epoch']}"
        session.flush()
        history.add_event(session, submitted.job.id, "log", {"level": "info", "message": message}, 0)
        session.refresh(submitted.job)
    return submitted


def _params(source: Job, rerun: bool) -> Json | None:
    params = dict(source.params or {})
    params.pop(baselines.MARK, None)
    if rerun:
        params[RERUN_OF] = str(source.id)
    return params or None


def _overrides_as_run(source: Job) -> Json:
    """The overrides that repeat the micro-batch size: it was chosen at run time and affects the rounding of sums."""
    days = (source.evidence or {}).get("micro_batch_days")
    return source.overrides | ({"micro_batch_days": days} if days else {})


def drift(session: Session, job: Job, *, fingerprint: str | None) -> Json | None:
    """The differences between a rerun that is about to succeed and its source; `equal` when there are none. Null for a
    job that is not a rerun. `fingerprint` is that of the data it used or built.
    """
    if job.params is None or RERUN_OF not in job.params:
        return None
    source = get(session, UUID(job.params[RERUN_OF]))
    rows = [dict(row._mapping) for row in session.execute(_DRIFT, {"source": source.id, "rerun": job.id})]
    metrics = [row for row in rows if row["different_points"]]
    of_baselines = _differences(*_common_baselines(session, source, job))
    weights = _weights(session, source.id), _weights(session, job.id)
    equal_data = fingerprint == source.dataset_fingerprint
    return {
        "source_job_id": str(source.id),
        "equal": equal_data and not metrics and not of_baselines and weights[0] == weights[1],
        "points": sum(row["points"] for row in rows),
        "different_points": sum(row["different_points"] for row in metrics),
        "different_metrics": len(metrics),
        "metrics": metrics[:MAX_SHOWN],
        "baselines": dict(list(of_baselines.items())[:MAX_SHOWN]),
        "weights_equal": weights[0] == weights[1] if any(weights) else None,
        "dataset_fingerprint": [source.dataset_fingerprint, fingerprint],
        "environment": _differences(_environment(source.evidence), _environment(job.evidence)),
    }


def summary(found: Json) -> str:
    """One human-readable sentence on the drift."""
    if found["equal"]:
        return f"rerun of job {found['source_job_id']}: no drift, {found['points']} of {found['points']} points equal"
    parts = []
    if found["different_metrics"]:
        worst = found["metrics"][0]
        size = worst["largest_difference"]
        by = f"by {size:.3g}" if size is not None else "where one of the two is undefined or missing"
        parts.append(
            f"{found['different_points']} of {found['points']} points differ, in {found['different_metrics']} metrics, "
            f"{worst['name']} most, {by}"
        )
    before, now = found["dataset_fingerprint"]
    if before != now:
        parts.append(f"the data are {now}, not {before}")
    if found["weights_equal"] is False:
        parts.append("the weights differ")
    if found["baselines"]:
        parts.append(f"{len(found['baselines'])} numbers of baselines differ")
    if found["environment"]:
        parts.append("so do " + ", ".join(found["environment"]))
    return f"rerun of job {found['source_job_id']}: drift: " + "; ".join(parts)


def _weights(session: Session, job_id: UUID) -> Mapping[str, str]:
    """The SHA-256 of each weights artifact, by name."""
    query = select(ArtifactRow.name, ArtifactRow.sha256).where(
        ArtifactRow.job_id == job_id, ArtifactRow.name.like(_WEIGHTS)
    )
    return {name: sha256 for name, sha256 in session.execute(query)}  # noqa: C416 - a Row is no tuple for mypy


def _common_baselines(session: Session, source: Job, rerun: Job) -> tuple[Json, Json]:
    """The values of the baselines that both have: those of one may still be computed."""
    computed = baselines.jobs_of(session, [source, rerun])
    before, now = (baselines.values(job, computed.get(job.id)) for job in (source, rerun))
    common = before.keys() & now.keys()
    return _flatten(before, common), _flatten(now, common)


def _flatten(of_job: Mapping[str, Json], sources: Collection[str]) -> Json:
    return {f"{source} {name}": value for source in sources for name, value in of_job[source].items()}


def _environment(evidence: Json | None) -> Json:
    found = evidence or {}
    named = {name: found.get(name) for name in _ENVIRONMENT}
    return named | {f"version of {name}": version for name, version in found.get("versions", {}).items()}


def _differences(source: Json, rerun: Json) -> dict[str, list[object]]:
    return {
        name: [source.get(name), rerun.get(name)]
        for name in sorted(set(source) | set(rerun))
        if source.get(name) != rerun.get(name)
    }
