"""Where a job goes on: what led up to its last checkpoint stays, or comes along to a retry; what is made again goes."""

import posixpath
from typing import Final

from sqlalchemy import Integer, and_, cast, delete, func, insert, literal, not_, or_, select, text
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from jobs.db.tables import DailyMetric, Job, JobEvent, Json, Metric
from jobs.record.history import best_of

_FOLD: Final = r"^[a-z]+\.([0-9]{1,4})/"  # val.2/rank_ic is of the second fold


def rewind(session: Session, job: Job) -> Json:
    """Drop the points that the next attempt will make again; returns the job's latest metrics and best as of its
    checkpoint.

    Without a checkpoint that is everything. Events stay: they are history, and say which attempt they belong to.
    """
    epoch, step = (job.checkpoint["epoch"], job.checkpoint["step"]) if job.checkpoint else (0, 0)
    fold = job.checkpoint.get("fold", 1) if job.checkpoint else 1
    of_update = Metric.name.like("step/%")
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


def _best_as_of(session: Session, job: Job, epoch: int) -> Json | None:
    """The best of the epochs up to `epoch`, by the job's events; for a retry without any, what it began with."""
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


def copy_checkpoint(session: Session, job: Job, source: Job) -> None:
    """Let a new job go on where `source` was saved: with its checkpoint and the points that lead up to it."""
    if source.checkpoint is None:
        return
    points = select(literal(job.id), Metric.name, Metric.step, literal(0), Metric.value, Metric.time)
    columns = ["job_id", "name", "step", "attempt", "value", "time"]
    session.execute(insert(Metric).from_select(columns, points.where(Metric.job_id == source.id)))
    path = posixpath.normpath(f"../{source.id}/{source.checkpoint['path']}")  # which may be another job's already
    job.checkpoint = source.checkpoint | {"path": path}
    job.best = _best_as_of(session, source, source.checkpoint["epoch"])
    session.flush()
    job.metrics = rewind(session, job)["metrics"]
