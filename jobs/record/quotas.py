"""Quotas of a principal: the number of unfinished jobs, and the bytes uploaded within a day."""

from typing import Final

from sqlalchemy import bindparam, func, select, text
from sqlalchemy.orm import Session

from jobs.db.tables import Job
from jobs.errors import QuotaExceeded
from jobs.record.catalog import advisory_lock

_MAX_CONCURRENT: Final = 64  # more submits than a few API processes run at the same time
_UPLOADED: Final = text("""
    SELECT coalesce(sum((source.value ->> 'size_bytes')::bigint), 0)
    FROM jobs CROSS JOIN jsonb_each(params -> 'sources') AS source
    WHERE kind = 'dataset' AND created_by = :created_by AND created_at > now() - interval '1 day'
        AND source_job_id IS NULL""")  # a retry uploads nothing


_UNFINISHED: Final = (
    select(func.count())
    .select_from(Job)
    .where(Job.created_by == bindparam("created_by"), Job.finished_at.is_(None), Job.parent_id.is_(None))
)


def unfinished_jobs(session: Session, created_by: str) -> int:
    """The number of queued, running and paused jobs. A study's children are bounded by the study and do not count."""
    return session.scalar(_UNFINISHED, {"created_by": created_by}) or 0


def check_job_quota(session: Session, created_by: str, limit: int) -> None:
    """Raise QuotaExceeded when one more job would exceed the limit.

    Far below the limit the concurrent submits of one key do not wait for each other; near it a lock serializes them.
    """
    if unfinished_jobs(session, created_by) + _MAX_CONCURRENT < limit:
        return
    advisory_lock(session, "quota", created_by)
    if unfinished_jobs(session, created_by) >= limit:
        raise QuotaExceeded(f"this key may have {limit} jobs that are not over, and has them: wait, or cancel some")


def check_upload_quota(session: Session, created_by: str, coming_bytes: int, limit: int) -> None:
    """Raise QuotaExceeded when an upload of this size would exceed the daily limit. A lock serializes the uploads of
    one key until their transactions end.
    """
    advisory_lock(session, "quota", created_by)
    if int(session.scalar(_UPLOADED, {"created_by": created_by}) or 0) + coming_bytes > limit:
        raise QuotaExceeded(f"this key may upload {limit:,} bytes a day: this upload would be more")
