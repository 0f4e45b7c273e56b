"""The history of a job: its durable events, metric points and daily series. Only the current attempt writes it, and
each event of the child process is recorded exactly once.

A batch holds the child's events in the order of their emission and is sent again until it is recorded, before any
later one, so that comparing with the row's `child_seq` suffices for exactly-once. Events of the supervisor itself have
`child_seq` 0.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Date,
    Double,
    Insert,
    func,
    insert,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session, defer
from sqlalchemy.sql.base import ExecutableOption

from atft.events import AnyEvent, Checkpointed, Evidence, Log, Metrics, Progress
from jobs.db.columns import Best, JobParams
from jobs.db.tables import DailyMetric, Job, JobEvent, Json, Metric
from jobs.errors import JobNotFound, StaleAttempt
from jobs.states import JobState, Wanted

Series = dict[str, dict[str, list[int] | list[float | None]]]

# Events and points in one statement: each round trip is a good part of a batch's time.
_INSERT: Final = text("""
    WITH new_events AS (
        INSERT INTO events (job_id, seq, attempt, child_seq, kind, time, body)
        SELECT CAST(:job_id AS uuid), seq, :attempt, child_seq, kind, time, CAST(body AS jsonb)
        FROM unnest(CAST(:seqs AS bigint[]), CAST(:child_seqs AS int[]), CAST(:kinds AS text[]),
                    CAST(:times AS timestamptz[]), CAST(:bodies AS text[])) AS rows (seq, child_seq, kind, time, body)
    )
    INSERT INTO metrics (job_id, name, step, attempt, value, time)
    SELECT CAST(:job_id AS uuid), name, step, :attempt, value, time
    FROM unnest(CAST(:names AS text[]), CAST(:steps AS bigint[]), CAST(:values AS float8[]),
                CAST(:point_times AS timestamptz[])) AS rows (name, step, value, time)
    ON CONFLICT DO NOTHING""")
_INSERT_DAILY: Final = text("""
    INSERT INTO daily_metrics (job_id, source, split, name, horizon, day, attempt, value)
    SELECT CAST(:job_id AS uuid), :source, :split, :name, :horizon, day, :attempt, value
    FROM unnest(CAST(:day AS date[]), CAST(:value AS float8[])) AS rows (day, value)
    ON CONFLICT DO NOTHING""")
# A loose index scan: one index lookup per name, where DISTINCT would read every point.
_NAMES: Final = text("""
    WITH RECURSIVE names AS (
        (SELECT name FROM metrics WHERE job_id = :job_id ORDER BY name LIMIT 1)
        UNION ALL
        SELECT (SELECT name FROM metrics WHERE job_id = :job_id AND name > names.name ORDER BY name LIMIT 1)
        FROM names WHERE names.name IS NOT NULL
    )
    SELECT name FROM names WHERE name IS NOT NULL""")
# Min-max downsampling: the lowest and the highest value of each bucket of steps, so that no spike is lost, and both
# ends. A series is one row of two arrays: one row per point takes several times as long to read.
_SERIES: Final = text("""
    WITH extent AS (
        SELECT names.name, ends.*, longer.than IS NOT NULL AS long
        FROM unnest(CAST(:names AS text[])) AS names (name)
        CROSS JOIN LATERAL (
            SELECT min(step) AS first, max(step) AS last FROM metrics
            WHERE job_id = :job_id AND metrics.name = names.name AND (step > :after_step OR :after_step = 0)
        ) AS ends
        LEFT JOIN LATERAL (
            SELECT step AS than FROM metrics
            WHERE job_id = :job_id AND metrics.name = names.name AND step >= ends.first
            ORDER BY step OFFSET :max_points LIMIT 1
        ) AS longer ON true
    ), buckets AS (
        SELECT name, min(ARRAY[value, step]) AS low, max(ARRAY[value, -step]) FILTER (WHERE value IS NOT NULL) AS high
        FROM metrics JOIN extent USING (name)
        WHERE job_id = :job_id AND long AND step >= first
        GROUP BY name, (step - first) * :num_buckets / (last - first + 1)
    ), kept AS (
        SELECT name, step, value FROM metrics JOIN extent USING (name)
        WHERE job_id = :job_id AND (step = first OR step = last) AND long
        UNION SELECT name, CAST(low[2] AS bigint), low[1] FROM buckets
        UNION SELECT name, CAST(-high[2] AS bigint), high[1] FROM buckets WHERE high IS NOT NULL
        UNION ALL
        SELECT name, step, value FROM metrics JOIN extent USING (name)
        WHERE job_id = :job_id AND step >= first AND NOT long
    )
    SELECT name, array_agg(step ORDER BY step), array_agg(value ORDER BY step) FROM kept GROUP BY name""")

# Not loaded for a batch of events; an event that needs one of them loads it then.
_DEFERRED: Final = [
    defer(column)
    for column in (Job.spec, Job.params, Job.progress, Job.best, Job.baselines, Job.evidence, Job.checkpoint)
]


@dataclass
class _Batch:
    """New events, by destination: event rows, metric points, changes of the job's row."""

    events: list[tuple[int | None, str, datetime, Json]] = field(default_factory=list)
    points: dict[tuple[str, int], tuple[float | None, datetime]] = field(default_factory=dict)
    changes: Json = field(default_factory=dict)

    def add(self, event: AnyEvent, job: Job) -> list[Metrics]:
        """Add one event; returns it, in a list, when it has daily series."""
        child_seq = event.child_seq or None
        match event:
            case Log():
                self.events.append(
                    (child_seq, "log", event.time, {"level": event.level, "message": replace_nul(event.message)})
                )
            case Metrics():
                body = event.model_dump(mode="json", include={"step", "values", "best", "source"})
                self.events.append((child_seq, "metrics", event.time, body))
                self._add_values(event, job)
                return [event] if event.daily else []
            case Progress():
                self.changes["progress"] = event.model_dump(mode="json", exclude={"type", "child_seq"})
            case Evidence():
                self.changes["evidence"] = dict(event.body)
            case Checkpointed():
                fields = {"path", "step", "fold", "epoch", "sha256"}
                before = self.changes.get("checkpoint", job.checkpoint)
                saved = event.model_dump(mode="json", include=fields)
                if before is not None and before["path"] != event.path:
                    saved["previous"] = {key: before[key] for key in before if key != "previous"}
                self.changes["checkpoint"] = saved
            case _:
                pass  # started, finished, stopped, failed: the supervisor turns them into state transitions
        return []

    def rows(self, first_seq: int) -> Json:
        """The parameters of `_INSERT`."""
        child_seqs, kinds, times, bodies = zip(*self.events, strict=True)
        values = list(self.points.values())
        return {
            "seqs": list(range(first_seq, first_seq + len(self.events))),
            "child_seqs": list(child_seqs),
            "kinds": list(kinds),
            "times": list(times),
            "bodies": [json.dumps(body, allow_nan=False) for body in bodies],
            "names": [name for name, _ in self.points],
            "steps": [step for _, step in self.points],
            "values": [value for value, _ in values],
            "point_times": [time for _, time in values],
        }

    def _add_values(self, event: Metrics, job: Job) -> None:
        if event.source is not None:
            baselines = self.changes.setdefault("baselines", dict(job.baselines))
            baselines[event.source] = baselines.get(event.source, {}) | event.values
            return
        self.changes["metrics"] = self.changes.get("metrics", job.metrics) | event.values
        for name, value in event.values.items():
            self.points.setdefault((name, event.step), (value, event.time))
        if event.best:
            self.changes["best"] = best_of(job, event.step, event.values)


def replace_nul(text: str) -> str:
    """The text with NUL replaced by U+FFFD: a crashing process may print NUL, which Postgres cannot store."""
    return text.replace("\0", "\ufffd")


def best_of(job: Job, epoch: int, values: Mapping[str, float | None]) -> Best:
    """The `best` entry of a job: the epoch, its metrics, and the value of the spec's objective."""
    objective = job.run.get("trainer", {}).get("objective")
    return {
        "epoch": epoch,
        "objective": objective,
        "value": values.get(objective) if objective else None,
        "metrics": dict(values),
    }


def append(session: Session, job_id: UUID, attempt: int, events: Sequence[AnyEvent]) -> int:
    """Record the child's events that are not recorded yet; returns their number. Raises StaleAttempt."""
    job = lock_running(session, job_id, attempt, *_DEFERRED)
    new = [event for event in events if event.child_seq == 0 or event.child_seq > job.child_seq]
    if not new:
        return 0
    batch = _Batch()
    with_daily = [metrics for event in new for metrics in batch.add(event, job)]
    key = {"job_id": job_id, "attempt": attempt}
    if batch.events:  # points only come with a metrics event
        session.execute(_INSERT, key | batch.rows(job.last_seq + 1))
    for event in with_daily:
        for series in event.daily:
            place = {
                "source": event.source or "",
                "split": series.split,
                "name": series.name,
                "horizon": series.horizon,
            }
            days = [date.fromisoformat(day) for day in series.days]
            session.execute(_INSERT_DAILY, key | place | {"day": days, "value": series.values})
    for name, value in batch.changes.items():
        setattr(job, name, value)
    job.child_seq = max(job.child_seq, *(event.child_seq for event in new), 0)
    job.last_seq += len(batch.events)
    job.version += bool(batch.events or batch.changes)
    session.flush()
    return len(new)


def lock_running(session: Session, job_id: UUID, attempt: int, *options: ExecutableOption) -> Job:
    """Lock the job whose running attempt this is. Raises StaleAttempt for any other."""
    query = select(Job).where(Job.id == job_id, Job.attempt == attempt, Job.state == JobState.RUNNING).options(*options)
    job = session.scalars(query.with_for_update(key_share=True).execution_options(populate_existing=True)).one_or_none()
    if job is None:
        raise StaleAttempt(f"attempt {attempt} of job {job_id} is over")
    return job


def add_event(session: Session, job_id: UUID, kind: str, body: Json, attempt: int) -> int:
    """Write one event of the service itself; returns its seq. Raises JobNotFound."""
    change = (
        update(Job)
        .where(Job.id == job_id)
        .values(last_seq=Job.last_seq + 1, version=Job.version + 1)
        .returning(Job.last_seq)
    )
    seq = session.execute(change, execution_options={"synchronize_session": False}).scalar_one_or_none()
    if seq is None:
        raise JobNotFound(f"there is no job {job_id}")
    write_event(session, job_id, seq, kind, body, attempt)
    return seq


def write_event(session: Session, job_id: UUID, seq: int, kind: str, body: Json, attempt: int) -> None:
    """Insert an event whose seq the caller has taken from the job's row in the same transaction."""
    session.execute(
        insert(JobEvent).values(
            job_id=job_id, seq=seq, kind=kind, body=body, attempt=attempt, time=func.clock_timestamp()
        )
    )


def first_event(job_id: BindParameter[UUID]) -> Insert:
    """The INSERT of a new job's first event."""
    queued = Job(state=JobState.QUEUED, wanted=Wanted.RUN, attempt=0)
    values = {"job_id": job_id, "seq": 1, "kind": "state", "body": state_body(queued, None), "attempt": 0}
    return insert(JobEvent).values(**values, time=func.clock_timestamp())


def state_body(job: Job, by: str | None) -> Json:
    """The body of a state event; `by` is the principal that requested the change."""
    body: Json = {
        "state": job.state,
        "reason": job.reason,
        "message": job.message,
        "attempt": job.attempt,
        "wanted": job.wanted,
    }
    return body if by is None else body | {"by": by}


def read_after(session: Session, job_id: UUID, after: int, limit: int = 500) -> list[JobEvent]:
    """The events after seq `after`, oldest first."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after).order_by(JobEvent.seq).limit(limit)
    return list(session.scalars(query))


def tail(session: Session, job_id: UUID, count: int) -> list[JobEvent]:
    """The last `count` log lines and state events, oldest first."""
    wanted = (JobEvent.job_id == job_id, JobEvent.kind.in_(("log", "state")))
    return list(session.scalars(select(JobEvent).where(*wanted).order_by(JobEvent.seq.desc()).limit(count)))[::-1]


def series(
    session: Session, job_id: UUID, names: Sequence[str] | None, after_step: int = 0, max_points: int = 1000
) -> Series:
    """The series of every metric whose name starts with one of `names` (null: all), downsampled to at most
    max(4, max_points) points each.

    Downsampling keeps both ends and the lowest and the highest value of each bucket.
    """
    every = sorted(session.scalars(_NAMES, {"job_id": job_id}))
    found = [name for name in every if names is None or name.startswith(tuple(names))]
    limits = {"num_buckets": max(1, (max_points - 2) // 2), "max_points": max_points, "after_step": after_step}
    result: Series = {name: {"step": [], "value": []} for name in found}
    for name, steps, values in session.execute(_SERIES, {"job_id": job_id, "names": found, **limits}):
        result[name] = {"step": steps, "value": values}
    return result


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a metric."""

    time: datetime
    name: str
    step: int
    value: float | None


def points_after(session: Session, job_id: UUID, last: Point | None, limit: int) -> list[Point]:
    """The next `limit` points after `last`, in the order of their emission."""
    place = (Metric.time, Metric.name, Metric.step)
    query = select(*place, Metric.value).where(Metric.job_id == job_id).order_by(*place).limit(limit)
    if last is not None:
        query = query.where(tuple_(*place) > tuple_(last.time, last.name, last.step))
    return [Point(*row) for row in session.execute(query)]


def daily_series(
    session: Session, job_ids: Iterable[UUID], metric: str, split: str, horizons: Iterable[int], source: str = ""
) -> dict[tuple[UUID, int], dict[date, float | None]]:
    """The daily values of one metric by job and horizon; `source` is a baseline's name, or empty for the job's own
    model.
    """
    days = func.array_agg(aggregate_order_by(DailyMetric.day, DailyMetric.day), type_=ARRAY(Date))
    values = func.array_agg(aggregate_order_by(DailyMetric.value, DailyMetric.day), type_=ARRAY(Double))
    query = select(DailyMetric.job_id, DailyMetric.horizon, days, values).where(
        DailyMetric.job_id.in_(job_ids), DailyMetric.name == metric, DailyMetric.split == split,
        DailyMetric.horizon.in_(horizons), DailyMetric.source == source,
    )  # fmt: skip
    rows = session.execute(query.group_by(DailyMetric.job_id, DailyMetric.horizon))
    return {(row[0], row[1]): dict(zip(row[2], row[3], strict=True)) for row in rows}


def _update_running(session: Session, job_id: UUID, attempt: int, **values: Any) -> None:
    running = update(Job).where(Job.id == job_id, Job.attempt == attempt, Job.state == JobState.RUNNING)
    changed = session.execute(
        running.values(version=Job.version + 1, **values).returning(Job.id),
        execution_options={"synchronize_session": False},
    )
    if changed.first() is None:
        raise StaleAttempt(f"attempt {attempt} of job {job_id} is over")


def set_progress(session: Session, job_id: UUID, attempt: int, progress: Json) -> None:
    """Store the progress. Raises StaleAttempt, as do the functions below."""
    _update_running(session, job_id, attempt, progress=progress)


def set_evidence(session: Session, job_id: UUID, attempt: int, evidence: Json) -> None:
    _update_running(session, job_id, attempt, evidence=evidence)


def set_best(session: Session, job_id: UUID, attempt: int, best: Best) -> None:
    _update_running(session, job_id, attempt, best=best)


def set_params(session: Session, job_id: UUID, attempt: int, params: JobParams) -> None:
    _update_running(session, job_id, attempt, params=params)
