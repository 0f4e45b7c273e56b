"""Checks the spec of a training, ensemble, pretraining or prediction, then returns its plan or queues its job."""

from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.http.auth import Principal
from api.http.service import Service
from api.jobs.schemas import SubmittedView
from api.jobs.submission import RequestIdentity, reject_nul, replay_on_refusal, request_identity, submit
from api.jobs.views import submitted_view
from api.training import admission
from atft.spec.base import Spec
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec
from atft.spec.prediction import PredictSpec
from jobs.db.tables import Json
from jobs.states import JobKind

AdmittedT = TypeVar("AdmittedT")


async def submit_run(
    service: Service,
    principal: Principal,
    spec: RunSpec | EnsembleSpec,
    kind: JobKind,
    *,
    dry_run: bool,
    key: str | None,
    response: Response,
) -> SubmittedView | Response:
    """Plan or queue a training, ensemble or pretraining; headers are set on `response`.

    Raises Refused (422) naming the field that does not fit.
    """

    async def queue(admitted: admission.AdmittedRun, identity: RequestIdentity | None) -> SubmittedView:
        return await queue_run(
            service, principal, spec, kind, response, queue=admitted.queue, dataset=admitted.dataset_name,
            fingerprint=admitted.fingerprint, identity=identity, warnings=admitted.warnings,
        )  # fmt: skip

    return await plan_or_queue(
        service, principal, spec, kind, dry_run=dry_run, key=key, response=response,
        admit=lambda session: admission.admit(session, spec),
        plan=lambda session, admitted: admission.plan(session, service.settings, spec, admitted),
        queue=queue,
    )  # fmt: skip


async def plan_or_queue(
    service: Service,
    principal: Principal,
    spec: Spec,
    kind: JobKind,
    *,
    dry_run: bool,
    key: str | None,
    response: Response,
    admit: Callable[[Session], AdmittedT],
    plan: Callable[[Session, AdmittedT], BaseModel],
    queue: Callable[[AdmittedT, RequestIdentity | None], Awaitable[SubmittedView]],
) -> SubmittedView | Response:
    """Check a spec, then return its plan (`dry_run`) or queue its job once per key. Raises Refused as `admit`."""
    body = spec.model_dump(mode="json")
    reject_nul(body)
    identity = None if dry_run else request_identity(key, kind, {"spec": body})

    async def create() -> SubmittedView | Response:
        admitted = await service.database.read(admit)
        if dry_run:
            planned = await service.database.read(plan, admitted)
            return Response(planned.model_dump_json(), media_type="application/json")
        return await queue(admitted, identity)

    return await replay_on_refusal(service, principal, identity, response, create())


async def queue_run(
    service: Service,
    principal: Principal,
    spec: RunSpec | EnsembleSpec | PredictSpec,
    kind: JobKind,
    response: Response,
    *,
    queue: str,
    dataset: str,
    fingerprint: str,
    identity: RequestIdentity | None,
    warnings: list[str],
    source: UUID | None = None,
    params: Json | None = None,
) -> SubmittedView:
    """Queue a checked run as a job."""
    run_spec = spec.run
    job, position = await submit(
        service,
        principal,
        kind=kind,
        spec=spec,
        queue=queue,
        identity=identity,
        name=run_spec.name,
        tags=run_spec.tags,
        priority=run_spec.resources.priority,
        max_attempts=run_spec.resources.max_attempts,
        queue_timeout_seconds=run_spec.resources.queue_timeout_seconds,
        dataset=dataset,
        dataset_fingerprint=fingerprint,
        source_job_id=source,
        params=params,
    )
    return submitted_view(response, job, position, warnings)
