"""Routes of jobs of every kind: list, get, cancel, pause, resume, set priority, retry, rerun."""

import asyncio
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from sqlalchemy.orm import Session

from api.http.auth import Audit, Reader, Submitter, check_scope
from api.http.deps import (
    Cursor,
    IdempotencyKey,
    IfMatch,
    JobId,
    Limit,
    ServiceDep,
    expected_version,
    get_job_with_queue_position,
    problems,
    require_json,
    with_queue_position,
)
from api.http.service import Service
from api.jobs.schemas import JobPage, JobView, Priority, SubmittedView
from api.jobs.submission import REFUSALS, Inserted, RequestIdentity, SubmitRequest, answer, record_submission, replay
from api.jobs.views import etag, job_summary, job_view
from atft.spec.data import DatasetRef
from atft.spec.kinds import KINDS
from jobs.access import audit
from jobs.access.audit import AuditEntry
from jobs.db.tables import Job
from jobs.record import baselines, lifecycle, queries, reruns
from jobs.record.baselines import Verdict
from jobs.record.queries import JobFilter, QueuePosition
from jobs.record.reruns import RerunKind
from jobs.states import JobKind, JobState, Wanted

router = APIRouter(prefix="/jobs", tags=["jobs"])


def _page(
    session: Session, only: JobFilter, cursor: str | None, limit: int
) -> tuple[list[tuple[Job, QueuePosition]], str | None]:
    jobs, next_cursor = queries.page(session, only, cursor=cursor, limit=limit)
    return list(zip(jobs, queries.queue_positions(session, jobs), strict=True)), next_cursor


@router.get("", summary="List jobs", responses=problems())
async def list_jobs(
    request: Request,
    response: Response,
    service: ServiceDep,
    _: Reader,
    state: Annotated[JobState | None, Query(description="only jobs in this state")] = None,
    kind: Annotated[JobKind | None, Query(description="only jobs of this kind")] = None,
    parent_id: Annotated[UUID | None, Query(description="only the children of this job")] = None,
    dataset: Annotated[DatasetRef | None, Query(description="only jobs on this dataset")] = None,
    tag: Annotated[
        str | None, Query(max_length=601, description="`key` or `key=value`", examples=["desk=tokyo"])
    ] = None,
    q: Annotated[str | None, Query(max_length=200, description="part of a name, or the start of an id")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> JobPage:
    """Jobs, newest first, without their specs and most of their metrics, which `GET /jobs/{job_id}` has.

    `next_cursor` and `Link: …; rel="next"` give the next page.
    """
    only = JobFilter(state=state, kind=kind, parent_id=parent_id, dataset=dataset, tag=tag, q=q)
    rows, next_cursor = await service.database.read(_page, only, cursor, limit)
    if next_cursor is not None:
        others = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
        response.headers["Link"] = f'</jobs?{urlencode([*others, ("cursor", next_cursor)])}>; rel="next"'
    return JobPage(items=[job_summary(job, position) for job, position in rows], next_cursor=next_cursor)


def _job(session: Session, job_id: UUID) -> tuple[Job, QueuePosition, Verdict]:
    job, position = get_job_with_queue_position(session, job_id)
    return job, position, baselines.verdict(session, job)


@router.get(
    "/{job_id}",
    response_model=JobView,
    summary="One job",
    responses={**problems(404), 304: {"description": "Not changed since the version in If-None-Match."}},
)
async def get_job(
    job_id: JobId, request: Request, response: Response, service: ServiceDep, _: Reader
) -> JobView | Response:
    """The job with its newest metrics and progress. `ETag` is its version, for If-None-Match and If-Match."""
    job, position, verdict = await service.database.read(_job, job_id)
    headers = {"ETag": etag(job), "Cache-Control": "no-cache"}
    seen = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    # A queued job's position changes without a new version, and so does a verdict that waits for another job.
    if etag(job) in seen and job.state is not JobState.QUEUED and not baselines.computed_elsewhere(job):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return job_view(job, position, verdict)


async def _set_wanted(
    service: Service, entry: AuditEntry, job_id: UUID, wanted: Wanted, if_match: str | None, response: Response
) -> JobView:
    def update(session: Session) -> tuple[Job, QueuePosition]:
        job = lifecycle.want(session, job_id, wanted, by=entry.principal, expected_version=expected_version(if_match))
        audit.record(session, entry)
        return with_queue_position(session, job)

    job, position = await service.database.write(update)
    await service.notify(job_id)
    advance = KINDS[job.kind].coordinating and job.state is JobState.RUNNING
    if advance or (wanted is Wanted.RUN and job.state is JobState.QUEUED):
        await service.send_hint(job)
    response.headers["ETag"] = etag(job)
    return job_view(job, position)


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    summary="Cancel a job",
    response_description="The job after the request.",
    responses=problems(404, 409, 412),
)
async def cancel_job(
    job_id: JobId, response: Response, service: ServiceDep, _: Submitter, entry: Audit, if_match: IfMatch = None
) -> JobView:
    """Cancel the job. A queued job is cancelled at once; a running one when its processes have exited.

    Cancelling a cancelled job changes nothing; any other finished job returns 409.
    """
    return await _set_wanted(service, entry, job_id, Wanted.CANCEL, if_match, response)


@router.post(
    "/{job_id}/pause",
    status_code=202,
    summary="Pause a job",
    response_description="The job after the request.",
    responses=problems(404, 409, 412),
)
async def pause_job(
    job_id: JobId, response: Response, service: ServiceDep, _: Submitter, entry: Audit, if_match: IfMatch = None
) -> JobView:
    """Stop the job and free its device: a running job saves a checkpoint first. Finished jobs return 409."""
    return await _set_wanted(service, entry, job_id, Wanted.PAUSE, if_match, response)


@router.post(
    "/{job_id}/resume",
    status_code=202,
    summary="Resume a paused job",
    response_description="The job after the request.",
    responses=problems(404, 409, 412),
)
async def resume_job(
    job_id: JobId, response: Response, service: ServiceDep, _: Submitter, entry: Audit, if_match: IfMatch = None
) -> JobView:
    """Queue a paused job again; it continues from its checkpoint. Other unfinished jobs are not changed."""
    return await _set_wanted(service, entry, job_id, Wanted.RUN, if_match, response)


@router.post(
    "/{job_id}/priority",
    status_code=202,
    dependencies=[Depends(require_json)],
    summary="Change a job's priority",
    response_description="The job after the request.",
    responses=problems(404, 409, 412, 413, 415),
)
async def set_priority(
    job_id: JobId,
    change: Annotated[Priority, Body(openapi_examples={"first": {"summary": "Run next", "value": {"priority": 0}}})],
    response: Response,
    service: ServiceDep,
    _: Submitter,
    entry: Audit,
    if_match: IfMatch = None,
) -> JobView:
    """Move a job in its queue: 0 runs first, 9 last. The trials of a study move with it; finished jobs return 409."""

    def update(session: Session) -> tuple[list[Job], QueuePosition]:
        version = expected_version(if_match)
        changed = lifecycle.set_priority(session, job_id, change.priority, by=entry.principal, expected_version=version)
        audit.record(session, entry)
        return changed, queries.queue_position(session, changed[0])

    changed, position = await service.database.write(update)
    await service.notify(job_id)
    await asyncio.gather(*(service.send_hint(job) for job in changed if job.state is JobState.QUEUED))
    response.headers["ETag"] = etag(changed[0])
    return job_view(changed[0], position)


async def _submit_rerun(
    request: SubmitRequest, job_id: UUID, rerun_kind: RerunKind, if_match: str | None
) -> SubmittedView:
    identity = request.identity(JobKind.TRAIN, {rerun_kind: str(job_id)})
    try:
        await request.service.check_disk()
        version = expected_version(if_match)
        inserted = await request.service.database.write(_insert_rerun, request, job_id, rerun_kind, version, identity)
        return await answer(request, inserted)
    except REFUSALS as refusal:
        return await replay(request, identity, refusal)


def _insert_rerun(
    session: Session,
    request: SubmitRequest,
    job_id: UUID,
    kind: RerunKind,
    version: int | None,
    identity: RequestIdentity | None,
) -> Inserted:
    check_scope(request.principal, KINDS[queries.get(session, job_id).kind].scope)
    submitted = reruns.submit_rerun(
        session, job_id, kind, by=request.principal.name, expected_version=version, idempotency=identity,
        max_unfinished=request.principal.limits.jobs,
    )  # fmt: skip
    return record_submission(session, request, submitted)


@router.post(
    "/{job_id}/retry",
    status_code=202,
    response_model=SubmittedView,
    summary="Retry a failed or cancelled job",
    response_description="The new queued job. `Location` is its URL.",
    responses=problems(404, 409, 412),
)
async def retry_job(
    job_id: JobId,
    response: Response,
    service: ServiceDep,
    principal: Submitter,
    entry: Audit,
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> SubmittedView | Response:
    """Create a job with the same spec that continues from the last checkpoint of this one, its `source_job_id`.

    The metrics up to that checkpoint are kept. A failure caused by the spec or the data will repeat.
    """
    request = SubmitRequest(service, principal, entry, response, idempotency_key)
    return await _submit_rerun(request, job_id, RerunKind.RETRY, if_match)


@router.post(
    "/{job_id}/rerun",
    status_code=202,
    response_model=SubmittedView,
    summary="Rerun a succeeded job",
    response_description="The new queued job. `Location` is its URL.",
    responses=problems(404, 409, 412),
)
async def rerun_job(
    job_id: JobId,
    response: Response,
    service: ServiceDep,
    principal: Submitter,
    entry: Audit,
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> SubmittedView | Response:
    """Create a job with the same spec and data that runs from the start.

    When it ends, its message and `drift` in its evidence report the metrics, weights and versions that differ.
    """
    request = SubmitRequest(service, principal, entry, response, idempotency_key)
    return await _submit_rerun(request, job_id, RerunKind.RERUN, if_match)
