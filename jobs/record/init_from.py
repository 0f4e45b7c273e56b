"""`init_from`: jobs that start from the weights of another job, the chain of such jobs, and the files of weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from atft.spec.job import RunSpec, parse_source
from atft.spec.kinds import KINDS
from jobs.db.tables import Job
from jobs.errors import ArtifactNotFound
from jobs.record.catalog import artifacts
from jobs.record.queries import get

_WEIGHTS: Final = "best."


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A job's weight files: their folder, relative to the run root, their SHA-256 by name, and what they learned."""

    folder: PurePosixPath
    sha256: Mapping[str, str]
    task: str


def run_spec(job: Job) -> RunSpec:
    """The spec of what a job trains. Raises pydantic.ValidationError for a record of another version."""
    trained = KINDS[job.kind].trains
    assert trained is not None  # noqa: S101 - only jobs that train are asked for
    return trained.model_validate(job.run)


def chain(session: Session, job_id: UUID) -> list[Job]:
    """The job, the job that it was initialized from, and so on, newest first. Raises JobNotFound."""
    job = get(session, job_id)
    found = [job]
    while (earlier := job.run.get("init_from")) is not None:
        job = get(session, UUID(parse_source(earlier)[0]))
        found.append(job)
    return found


def weights(session: Session, job_id: UUID, member: int | None) -> Weights:
    """The weight files of a job, or of one member of an ensemble. Raises ArtifactNotFound."""
    prefix = _WEIGHTS if member is None else f"{_WEIGHTS}{member}."
    rows = [row for row in artifacts(session, job_id) if row.name.startswith(prefix)]
    if not rows:
        raise ArtifactNotFound(f"job {job_id} has no weights, or they are not kept any more")
    return Weights(
        folder=PurePosixPath(rows[0].path).parent,
        sha256={row.name: row.sha256 for row in rows},
        task=get(session, job_id).spec.get("task", "train"),
    )
