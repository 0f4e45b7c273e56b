"""Resuming from a checkpoint: the points before it are kept, or copied to a retry, and the points after it deleted."""

import posixpath
from typing import Final

from sqlalchemy import Integer, and_, cast, delete, func, insert, literal, not_, or_, select, text
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from atft.spec.metric import STEP
from jobs.db.columns import Best, Checkpoint
from jobs.db.tables import DailyMetric, Job, JobEvent, Json, Metric
from jobs.record.history import best_of

_FOLD: Final = r"^[a-z]+\.([0-9]{1,4})/"  # val.2/rank_ic belongs to the second fold


def rewind(session: Session, job: Job) -> Json:
    """Delete the points after the job's checkpoint, which the next attempt computes again; returns the latest metrics
    and the best as of the checkpoint.

    Without a checkpoint all points are deleted. Events are kept: each belongs to its attempt.
    """
    epoch, step = (job.checkpoint["epoch"], job.checkpoint["step"]) if job.checkpoint else (0, 0)
    fold = job.checkpoint.get("fold", 1) if job.checkpoint else 1
    of_update = Metric.name.like(f"{STEP}/%")
    of_fold = func.coalesce(cast(func.substring(Metric.name, _FOLD), Integer), fold)
    past_epoch = or_(of_fold > fold, and_(of_fold == fold, Metric.step > epoch))
    past = or_(and_(not_(of_update), past_epoch), and_(of_update, Metric.step > step))
    session.execute(delete(Metric).where(Metric.job_id == job.id, past if job.checkpoint else text("true")))
    session.execute(delete(DailyMetric).where(DailyMetric.job_id == job.id))
    newest = (
        select(Metric.name, Metric.value)
        .where(Metric.job_id == job.id)
        .ext(distinct_on(Metric.name))
        .order_by(Metric.name, Metric.step.desc())
    )
    latest: Json = {name: value for name, value in session.execute(newest)}  # noqa: C416 - a Row is not a tuple for the type checker
    return {"metrics": latest, "best": _best_as_of(session, job, epoch)}


def _best_as_of(session: Session, job: Job, epoch: int) -> Best | None:
    """The best of the epochs up to `epoch` by the job's events, else that which a retry copied from its source."""
    body = JobEvent.body
    was_best = (
        JobEvent.job_id == job.id,
        JobEvent.kind == "metrics",
        body["best"].as_boolean(),
        body["source"].as_string().is_(None),
        body["step"].as_integer() <= epoch,
    )
    best = session.scalars(select(body).where(*was_best).order_by(JobEvent.seq.desc()).limit(1)).one_or_none()
    if best is not None:
        return best_of(job, best["step"], best["values"])
    return job.best if job.best is not None and job.best["epoch"] <= epoch else None


def _in_folder_of(source: Job, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint of `source` as one of a retry; it may lie in the folder of yet another job."""
    return {**checkpoint, "path": posixpath.normpath(f"../{source.id}/{checkpoint['path']}")}


def copy_checkpoint(session: Session, job: Job, source: Job) -> None:
    """Copy the checkpoint of `source`, and the points before it, to a new job that resumes from it."""
    if source.checkpoint is None:
        return
    points = select(literal(job.id), Metric.name, Metric.step, literal(0), Metric.value, Metric.time)
    columns = ["job_id", "name", "step", "attempt", "value", "time"]
    session.execute(insert(Metric).from_select(columns, points.where(Metric.job_id == source.id)))
    copied = _in_folder_of(source, source.checkpoint)
    if (previous := source.checkpoint.get("previous")) is not None:
        copied["previous"] = _in_folder_of(source, previous)
    job.checkpoint = copied
    job.best = _best_as_of(session, source, source.checkpoint["epoch"])
    session.flush()
    job.metrics = rewind(session, job)["metrics"]
