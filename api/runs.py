"""From the spec of a run (a training, a pretraining) to its plan or its job."""

from fastapi import Response

from api import admission
from api.auth import Principal
from api.schemas import SubmittedView
from api.service import Service
from api.submission import refuse_nul, submit
from api.views import etag, submitted_view
from atft.spec.job import RunSpec
from jobs.states import JobKind


async def submit_run(
    service: Service, who: Principal, spec: RunSpec, kind: JobKind, *, dry_run: bool, key: str | None, answer: Response
) -> SubmittedView | Response:
    """Raises Refused (422) naming the field that does not fit; the headers go to `answer`."""
    refuse_nul(spec.model_dump(mode="json"))
    admitted = await service.database.read(admission.admit, spec)
    if dry_run:
        plan = await service.database.read(admission.plan, service.settings, spec, admitted)
        return Response(plan.model_dump_json(), media_type="application/json")
    resources = spec.resources
    job, position = await submit(
        service,
        who,
        kind=kind,
        spec=spec,
        queue=admitted.queue,
        key=key,
        name=spec.name,
        tags=spec.tags,
        priority=resources.priority,
        max_attempts=resources.max_attempts,
        queue_timeout_seconds=resources.queue_timeout_seconds,
        dataset=admitted.dataset_name,
        dataset_fingerprint=admitted.fingerprint,
    )
    answer.headers["Location"] = f"/jobs/{job.id}"
    answer.headers["ETag"] = etag(job)
    return submitted_view(job, position, admitted.warnings)
