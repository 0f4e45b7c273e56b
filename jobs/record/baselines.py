"""Baselines of jobs. A run whose baselines are not stored with its cache ends without them, and a job of the kind
`baselines`, one for all runs of equal data, labels and split, computes them. Readers join the two by that job's digest.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import select, text, tuple_
from sqlalchemy.orm import Session

from atft.spec.base import STORED
from atft.spec.baselines import NAMES, BaselinesSpec
from atft.spec.job import TrainSpec
from atft.spec.kinds import KINDS, JobKind
from jobs.db.tables import Job, Json
from jobs.errors import DatasetNotFound
from jobs.record import history, queries
from jobs.record.catalog import advisory_lock
from jobs.record.submission import NewJob, submit
from jobs.states import ACTIVE, JobState

MARK: Final = "baselines"  # the key of `Job.params` that has the digest of the baselines that the run ended without
PRINCIPAL: Final = "service"  # who submits the jobs: they are nobody's quota
LOWEST_PRIORITY: Final = 9
PENDING: Final = "pending"
READY: Final = "ready"


class Verdict(NamedTuple):
    """`pending`, `ready` or why there are no baselines, null for a job that has none or has not succeeded; and the job
    that computes them, null where the run has its own.
    """

    text: str | None
    baselines_job_id: UUID | None


NO_VERDICT: Final = Verdict(None, None)
_IS_BASELINES: Final = text("jobs.kind = 'baselines'")  # no parameter, so that the partial index is used


def request(session: Session, job: Job) -> Job | None:
    """Mark a run that is about to succeed without the baselines that its spec asks for, and submit a job that computes
    them, unless there is one; returns the new job. Raises StaleAttempt.
    """
    if not _has_baselines(job):
        return None
    now = history.lock_running(session, job.id, job.attempt)
    if NAMES[0] in now.baselines:
        return None
    spec = BaselinesSpec.of(TrainSpec.model_validate(now.run, context=STORED))
    history.set_params(session, now.id, now.attempt, {**(now.params or {}), MARK: spec.key})
    advisory_lock(session, "baselines", f"{now.dataset_fingerprint}:{spec.key}")
    found = _newest(session, [(now.dataset_fingerprint, spec.key)])
    if any(one.state in ACTIVE or one.state is JobState.SUCCEEDED for one in found.values()):
        return None
    new = NewJob(
        kind=JobKind.BASELINES,
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.key,
        queue="cpu" if "cpu" in queries.live_queues(session) else now.queue,
        name=f"baselines on {now.dataset}",
        priority=LOWEST_PRIORITY,
        dataset=now.dataset,
        dataset_fingerprint=now.dataset_fingerprint,
        created_by=PRINCIPAL,
    )
    try:
        return submit(session, new).job
    except DatasetNotFound:  # deleted meanwhile: the run has its result, and its verdict says what is missing
        return None


def computed_elsewhere(job: Job) -> bool:
    """Whether another job computes the run's baselines, so that they may change after the run's end."""
    return MARK in (job.params or {}) and not KINDS[job.kind].of_study


def jobs_of(session: Session, runs: Sequence[Job]) -> Mapping[UUID, Job]:
    """For runs that ended without baselines, the job that computes them: the newest that has succeeded, else the
    newest.
    """
    keys = {run.id: (run.dataset_fingerprint, (run.params or {}).get(MARK)) for run in runs if computed_elsewhere(run)}
    found = _newest(session, list(set(keys.values()))) if keys else {}
    return {run_id: found[key] for run_id, key in keys.items() if key in found}


def _newest(session: Session, keys: Sequence[tuple[str | None, object]]) -> dict[tuple[str | None, object], Job]:
    query = (
        select(Job)
        .where(_IS_BASELINES, tuple_(Job.dataset_fingerprint, Job.spec_digest).in_(keys))
        .order_by(Job.state == JobState.SUCCEEDED, Job.created_at, Job.id)
    )
    return {(job.dataset_fingerprint, job.spec_digest): job for job in session.scalars(query)}


def values(job: Job, computed: Job | None) -> Mapping[str, Json]:
    """The job's baselines by name; `computed` is its job of `jobs_of`."""
    return job.baselines | (computed.baselines if computed is not None else {})


def verdict(session: Session, job: Job) -> Verdict:
    """Whether a succeeded run has its baselines."""
    computed = jobs_of(session, [job]).get(job.id)
    return Verdict(_verdict(job, computed), computed.id if computed is not None else None)


def _verdict(job: Job, computed: Job | None) -> str | None:
    if job.state is not JobState.SUCCEEDED or not _has_baselines(job):
        return None
    if not computed_elsewhere(job) or (computed is not None and computed.state is JobState.SUCCEEDED):
        return READY
    if computed is None:
        return f"no baselines: dataset {job.dataset} was deleted before they could be computed"
    if computed.state in ACTIVE:
        return PENDING
    why = ": ".join(filter(None, [computed.reason, computed.message]))
    return f"no baselines: job {computed.id} {computed.state}{f' ({why})' if why else ''}; retry it to compute them"


def _has_baselines(job: Job) -> bool:
    """Whether the job's spec asks for baselines of its own."""
    return KINDS[job.kind].evidence == "training" and bool(job.run.get("baselines"))
