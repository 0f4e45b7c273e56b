"""From the spec of what a child runs (a training, an ensemble, a pretraining, a prediction) to its plan or its job."""

from uuid import UUID

from fastapi import Response

from api import admission
from api.auth import Principal
from api.schemas import SubmittedView
from api.service import Service
from api.submission import Identity, identity, once, refuse_nul, submit
from api.views import submitted_view
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec
from atft.spec.prediction import PredictSpec
from jobs.states import JobKind
from jobs.tables import Json


async def submit_run(
    service: Service,
    who: Principal,
    spec: RunSpec | EnsembleSpec,
    kind: JobKind,
    *,
    dry_run: bool,
    key: str | None,
    answer: Response,
) -> SubmittedView | Response:
    """Raises Refused (422) naming the field that does not fit; the headers go to `answer`."""
    body = spec.model_dump(mode="json")
    refuse_nul(body)
    asked = None if dry_run else identity(key, kind, {"spec": body})

    async def making() -> SubmittedView | Response:
        admitted = await service.database.read(admission.admit, spec)
        if dry_run:
            plan = await service.database.read(admission.plan, service.settings, spec, admitted)
            return Response(plan.model_dump_json(), media_type="application/json")
        return await queue_run(
            service, who, spec, kind, answer, queue=admitted.queue, dataset=admitted.dataset_name,
            fingerprint=admitted.fingerprint, asked=asked, warnings=admitted.warnings,
        )  # fmt: skip

    return await once(service, who, asked, answer, making())


async def queue_run(
    service: Service,
    who: Principal,
    spec: RunSpec | EnsembleSpec | PredictSpec,
    kind: JobKind,
    answer: Response,
    *,
    queue: str,
    dataset: str,
    fingerprint: str,
    asked: Identity | None,
    warnings: list[str],
    source: UUID | None = None,
    params: Json | None = None,
) -> SubmittedView:
    """What was admitted becomes a job."""
    named = spec.base if isinstance(spec, EnsembleSpec) else spec
    job, position = await submit(
        service,
        who,
        kind=kind,
        spec=spec,
        queue=queue,
        asked=asked,
        name=named.name,
        tags=named.tags,
        priority=named.resources.priority,
        max_attempts=named.resources.max_attempts,
        queue_timeout_seconds=named.resources.queue_timeout_seconds,
        dataset=dataset,
        dataset_fingerprint=fingerprint,
        source_job_id=source,
        params=params,
    )
    return submitted_view(answer, job, position, warnings)
