"""Tailing of jobs: their current status and the events after a position, for many streams in one statement each."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Row, Uuid, any_, column, literal, select, text
from sqlalchemy.orm import Session

from jobs.db.tables import Job, JobEvent, Json
from jobs.states import JobState, Reason

StreamPosition = tuple[UUID, int]  # a job's id and the seq of the last event that the stream has sent

_AFTER_EACH: Final = text("""
    SELECT wanted.job_id, wanted.after, found.seq, found.kind, found.time, found.body, found.attempt
    FROM unnest(CAST(:job_ids AS uuid[]), CAST(:afters AS bigint[])) AS wanted (job_id, after)
    CROSS JOIN LATERAL (
        SELECT * FROM events WHERE job_id = wanted.job_id AND seq > wanted.after ORDER BY seq LIMIT :max_events
    ) AS found
    ORDER BY wanted.job_id, wanted.after, found.seq""").columns(
    column("job_id", Uuid()), column("after", BigInteger()),
    JobEvent.seq, JobEvent.kind, JobEvent.time, JobEvent.body, JobEvent.attempt,
)  # fmt: skip


def statuses(
    session: Session, job_ids: Collection[UUID]
) -> dict[UUID, Row[UUID, JobState, Reason | None, int, Json | None]]:
    """id, state, reason, last_seq and progress of each job that exists, by id."""
    columns = select(Job.id, Job.state, Job.reason, Job.last_seq, Job.progress)
    rows = session.execute(columns.where(Job.id == any_(literal(list(job_ids), ARRAY(Uuid)))))
    return {row.id: row for row in rows}


def events_after(
    session: Session, positions: Sequence[StreamPosition], max_events: int
) -> Iterator[tuple[StreamPosition, Row[Any]]]:
    """The events after each position, oldest first and at most `max_events` of each, paired with that position."""
    if positions:
        job_ids, afters = zip(*positions, strict=True)
        values = {"job_ids": list(job_ids), "afters": list(afters), "max_events": max_events}
        for row in session.execute(_AFTER_EACH, values):
            yield (row[0], row[1]), row
