"""Retention of the files of finished jobs. The rows of jobs are kept forever.

* Artifacts are kept as long as the job. Of a study's trials only those of the best one, and of sources of other jobs;
the others are removed after `keep_trials_days`. * Checkpoints and other files of an attempt are removed after
`keep_checkpoints_days`, and the job's checkpoint is set to null, so that a later retry starts over. A checkpoint from
which an unfinished job resumes is kept. * The raw output of a job's processes is removed after `keep_logs_days`. *
Nothing is removed of an unfinished job, of a job or study tagged `pinned`, or of a folder without a row, which may
belong to another database; `doctor` reports it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy import delete, func, null, select, update
from sqlalchemy.orm import Session, sessionmaker

from atft.spec.kinds import KINDS
from jobs.db.session import transaction
from jobs.db.tables import ArtifactRow, Job
from jobs.settings import Settings

PINNED: Final = "pinned"
LOG: Final = "log.txt"
_BATCH: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """The files to remove of one job; `artifacts` are the names of those `paths` that are artifacts."""

    job_id: UUID
    paths: tuple[Path, ...]
    artifacts: tuple[str, ...]
    size_bytes: int


def job_folders(settings: Settings) -> list[UUID]:
    """The ids of the jobs that have a folder."""
    found = []
    for folder in settings.jobs_root.iterdir() if settings.jobs_root.is_dir() else ():
        try:
            found.append(UUID(folder.name))
        except ValueError:
            continue
    return sorted(found)


def plan(session: Session, settings: Settings, job_ids: Sequence[UUID]) -> Iterator[Removal]:
    """What `remove` would remove now of these jobs."""
    for start in range(0, len(job_ids), _BATCH):
        over = (Job.id.in_(job_ids[start : start + _BATCH]), Job.finished_at.is_not(None))
        for job in session.scalars(select(Job).where(*over).order_by(Job.id)).all():
            removal = _plan_job(session, settings, job)
            if removal is not None:
                yield removal


def remove(sessions: sessionmaker[Session], settings: Settings, job_ids: Sequence[UUID]) -> list[Removal]:
    """Remove what `plan` lists; each job is checked again with its row locked, and its rows change before its files."""
    with transaction(sessions) as session:
        planned = [removal.job_id for removal in plan(session, settings, job_ids)]
    done = []
    for job_id in planned:
        with transaction(sessions) as session:
            job = session.scalars(select(Job).where(Job.id == job_id).with_for_update()).one_or_none()
            removal = None if job is None else _plan_job(session, settings, job)
            if removal is None:
                continue
            _delete_rows(session, removal)
        _delete_files(settings.jobs_root / str(job_id), removal.paths)
        done.append(removal)
    return done


def _plan_job(session: Session, settings: Settings, job: Job) -> Removal | None:
    parent = session.get(Job, job.parent_id) if job.parent_id is not None else None
    if job.finished_at is None or PINNED in job.tags or (parent is not None and PINNED in parent.tags):
        return None
    age = session.scalars(select(func.clock_timestamp())).one() - job.finished_at
    artifact_names = {
        (settings.run_root / row.path).resolve(): row.name
        for row in session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job.id))
    }
    expendable = _is_expendable(session, job, parent, age, settings)
    keep_checkpoint = age < timedelta(days=settings.keep_checkpoints_days) or _is_resumed_from(session, job)
    paths, artifacts, size = [], [], 0
    for path in sorted((settings.jobs_root / str(job.id)).rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = artifact_names.get(path.resolve())
        if name is not None:
            keep = not expendable
        elif path.name == LOG:
            keep = age < timedelta(days=settings.keep_logs_days)
        else:
            keep = keep_checkpoint
        if not keep:
            paths.append(path)
            artifacts += [] if name is None else [name]
            size += path.lstat().st_size
    if not paths:
        return None
    return Removal(job_id=job.id, paths=tuple(paths), artifacts=tuple(artifacts), size_bytes=size)


def _is_expendable(session: Session, job: Job, parent: Job | None, age: timedelta, settings: Settings) -> bool:
    """Whether this is an old trial of a finished study that is neither the best one nor the source of another job."""
    if not KINDS[job.kind].of_study or age < timedelta(days=settings.keep_trials_days):
        return False
    if parent is None or parent.finished_at is None or (parent.best or {}).get("job_id") == str(job.id):
        return False
    return session.scalar(select(Job.id).where(Job.source_job_id == job.id).limit(1)) is None


def _is_resumed_from(session: Session, job: Job) -> bool:
    """Whether an unfinished retry resumes from a checkpoint in this job's folder."""
    path = Job.checkpoint["path"].as_string()
    query = select(Job.id).where(Job.finished_at.is_(None), path.startswith(f"../{job.id}/", autoescape=True))
    return session.scalar(query.limit(1)) is not None


def _delete_rows(session: Session, removal: Removal) -> None:
    """Delete the rows of the artifacts, and the job's checkpoint, that are about to be removed."""
    if removal.artifacts:
        of_job = (ArtifactRow.job_id == removal.job_id, ArtifactRow.name.in_(removal.artifacts))
        session.execute(delete(ArtifactRow).where(*of_job))
    if any(path.name != LOG for path in removal.paths):
        change = update(Job).where(Job.id == removal.job_id).values(checkpoint=null())
        session.execute(change, execution_options={"synchronize_session": False})


def _delete_files(folder: Path, paths: tuple[Path, ...]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    for empty in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(empty.iterdir()):
            empty.rmdir()
