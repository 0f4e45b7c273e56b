"""Queries of jobs and workers: pages, due jobs, queue positions; and the upsert of a worker's heartbeat."""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    DateTime,
    Integer,
    Interval,
    Select,
    SmallInteger,
    SQLColumnExpression,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Session, aliased, defer
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.sql.base import ExecutableOption

from atft.spec.kinds import KINDS, kinds_where
from atft.spec.metric import LISTED
from jobs.db.columns import Best
from jobs.db.tables import ArtifactRow, Dataset, Job, Json, Worker
from jobs.errors import Invalid, JobNotFound
from jobs.states import COORDINATING, TERMINAL, JobKind, JobState

# The number of jobs ahead in the queue, and a sentence on what the job waits for; both null unless it is queued.
QueuePosition = tuple[int | None, str | None]
PLOTS_SECONDS: Final = 3600.0  # for how long after a study's end the plots that it lacks are tried again
_FIRST_ID: Final = UUID(int=0)
_LAST_ID: Final = UUID(int=2**128 - 1)
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
WORKER_SECONDS: Final = 60.0  # a worker whose last heartbeat is older is not live


def seconds_ago(seconds: float) -> ColumnElement[datetime]:
    """The time that many seconds ago by the database's clock, not by the start of the transaction."""
    return func.clock_timestamp() - timedelta(seconds=seconds)


def get(session: Session, job_id: UUID) -> Job:
    """The job as it is in the database now. Raises JobNotFound."""
    job = session.get(Job, job_id, populate_existing=True)
    if job is None:
        raise JobNotFound(f"there is no job {job_id}")
    return job


def get_all(session: Session, job_ids: Sequence[UUID], *options: ExecutableOption) -> list[Job]:
    """These jobs, in this order. Raises JobNotFound."""
    query = select(Job).where(Job.id.in_(job_ids)).options(*options)
    found = {job.id: job for job in session.scalars(query, execution_options={"populate_existing": True})}
    if missing := [job_id for job_id in job_ids if job_id not in found]:
        raise JobNotFound(f"there is no job {missing[0]}")
    return [found[job_id] for job_id in job_ids]


def write_cursor(created_at: datetime, row_id: UUID) -> str:
    """The opaque cursor of the page that begins after this row."""
    return base64.urlsafe_b64encode(json.dumps([created_at.isoformat(), str(row_id)]).encode()).decode()


def read_cursor(cursor: str) -> tuple[datetime, UUID]:
    """The creation time and id in a cursor. Raises Invalid."""
    try:
        created_at, row_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        return datetime.fromisoformat(created_at).astimezone(UTC), UUID(row_id)
    except (binascii.Error, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Invalid("this cursor was not given by this service: start again without one", "cursor") from error


_NEWEST_FIRST: Final = (Job.created_at.desc(), Job.id.desc())
_MAX_ROWS: Final = bindparam("max_rows", type_=Integer())


def _listed(metrics: SQLColumnExpression[Any]) -> ColumnElement[Any]:
    """Of a document of metrics those that a list shows."""
    each = func.jsonb_each(metrics).table_valued("key", "value")
    kept = select(func.jsonb_object_agg(each.c.key, each.c.value)).where(each.c.key.in_(LISTED)).scalar_subquery()
    return func.coalesce(kept, literal({}, JSONB))


def _page_query() -> Select[Job, Json, Best | None]:
    """Query of a page: the jobs without the columns that no list shows, their listed metrics, and their best epoch with
    its listed metrics.
    """
    unread = (
        Job.spec, Job.metrics, Job.best, Job.evidence, Job.baselines, Job.checkpoint, Job.overrides, Job.failures,
        Job.child_seq, Job.lease_until, Job.queue_deadline, Job.queued_at,
    )  # fmt: skip
    listed = Job.best.op("||")(func.jsonb_build_object("metrics", _listed(Job.best["metrics"])))
    best = case((func.jsonb_typeof(Job.best) == "object", listed))  # a cleared one is a JSON null
    query = select(Job, type_coerce(_listed(Job.metrics), JSONB), type_coerce(best, JSONB))
    query = query.options(*(defer(column, raiseload=True) for column in unread))
    return query.order_by(*_NEWEST_FIRST).limit(_MAX_ROWS)


_PAGE: Final = _page_query()  # built once: building a statement takes as long as running it


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFilter:
    """Which jobs to list. `dataset` is `name` or `name@version`, `tag` is `key` or `key=value`, `q` is a part of a name
    or the beginning of an id.
    """

    state: JobState | None = None
    kind: JobKind | None = None
    parent_id: UUID | None = None
    dataset: str | None = None
    tag: str | None = None
    q: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if self.state is not None:
            found.append(Job.state == self.state)
        if self.kind is not None:
            found.append(Job.kind == self.kind)
        if self.parent_id is not None:
            found.append(Job.parent_id == self.parent_id)
        if self.dataset is not None:
            found.append(_uses_dataset(self.dataset))
        if self.tag is not None:
            key, equals, value = self.tag.partition("=")
            found.append(Job.tags.contains({key: value}) if equals else Job.tags.has_key(key))
        if self.q is not None:
            in_name = Job.name.icontains(self.q, autoescape=True)
            ids = ids_that_start_with(self.q)
            found.append(in_name if ids is None else or_(in_name, Job.id.between(*ids)))
        return found


def ids_that_start_with(text: str) -> tuple[UUID, UUID] | None:
    """The first and the last possible id that starts with the text; None when no id can."""
    first, last = (text + str(bound)[len(text) :] for bound in (_FIRST_ID, _LAST_ID))
    return (UUID(first), UUID(last)) if _ID.fullmatch(first) else None


_ALL: Final = JobFilter()


def page(
    session: Session, only: JobFilter = _ALL, *, cursor: str | None = None, limit: int = 50
) -> tuple[list[Job], str | None]:
    """One page of jobs, newest first, and the cursor of the next page. Columns that no list shows are not read; of
    `metrics` and `best.metrics` only those in LISTED.
    """
    conditions = only.conditions()
    if cursor is not None:
        conditions.append(tuple_(Job.created_at, Job.id) < tuple_(*read_cursor(cursor)))
    query = _PAGE.where(*conditions) if conditions else _PAGE
    if only.q is not None:  # the inner query reads an index that has the names, not the rows
        found = select(Job.id).where(*conditions).order_by(*_NEWEST_FIRST).limit(_MAX_ROWS)
        query = _PAGE.where(Job.id.in_(found.correlate(None)))
    jobs = []
    for job, metrics, best in session.execute(query, {"max_rows": limit + 1}):
        set_committed_value(job, "metrics", metrics)
        set_committed_value(job, "best", best)
        jobs.append(job)
    more = len(jobs) > limit
    return jobs[:limit], write_cursor(jobs[limit - 1].created_at, jobs[limit - 1].id) if more else None


def split_ref(ref: str) -> tuple[str, int | None]:
    """The name and version of `name@version`; the version is null when not given, and -1 when it is no number."""
    name, at, version = ref.partition("@")
    if not at:
        return name, None
    return name, int(version) if version.isdecimal() and len(version) < 10 else -1


def _uses_dataset(ref: str) -> ColumnElement[bool]:
    """The condition that a job uses dataset `name` or `name@version`, also a deleted version: its number is never
    reused.
    """
    name, version = split_ref(ref)
    if version is None:
        return Job.dataset == name
    content = select(Dataset.fingerprint).where(Dataset.name == name, Dataset.version == version).scalar_subquery()
    return and_(Job.dataset == name, Job.dataset_fingerprint == content)


def is_due() -> ColumnElement[bool]:
    """The condition that a job's `not_before` has passed or is not set."""
    return or_(Job.not_before.is_(None), Job.not_before <= func.clock_timestamp())


def due_jobs(session: Session, queue: str, older_than_seconds: float, limit: int) -> list[Job]:
    """Due jobs of a queue that were queued that long ago, so that their hint may be lost, in queue order."""
    query = select(Job).where(
        Job.state == JobState.QUEUED, Job.queue == queue, Job.queued_at < seconds_ago(older_than_seconds), is_due()
    )
    return list(session.scalars(query.order_by(Job.priority, Job.created_at, Job.id).limit(limit)))


def active_studies(session: Session, limit: int, after: UUID | None = None) -> list[Job]:
    """Unfinished studies, which have no lease, so that their hint is repeated. Ordered by id; the next page begins
    `after` the last id of this one.
    """
    query = select(Job).where(Job.kind.in_(COORDINATING), Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
    if after is not None:
        query = query.where(Job.id > after)
    return list(session.scalars(query.order_by(Job.id).limit(limit)))


def studies_without_plots(session: Session, limit: int, job_id: UUID | None = None) -> list[Job]:
    """Studies with trials that ended in the last hour, or that one whenever it ended, without their plots."""
    trial = aliased(Job)
    query = select(Job).where(
        Job.kind.in_(COORDINATING),
        Job.state.in_(TERMINAL),
        Job.finished_at > seconds_ago(PLOTS_SECONDS) if job_id is None else Job.id == job_id,
        exists().where(trial.parent_id == Job.id, trial.trial_number.is_not(None)),
        ~exists().where(ArtifactRow.job_id == Job.id, ArtifactRow.name == "timeline.json"),
    )
    return list(session.scalars(query.limit(limit)))


def expired(session: Session, limit: int) -> list[Job]:
    """Running jobs whose lease has expired."""
    query = select(Job).where(Job.state == JobState.RUNNING, Job.lease_until < func.clock_timestamp())
    return list(session.scalars(query.order_by(Job.lease_until).limit(limit)))


def memory_needed(session: Session, job_id: UUID) -> int | None:
    """The host memory in bytes that a training job needs, if known: as measured by its own last attempt, else the
    largest measured by succeeded jobs with the same model, window and batch size on the same data.
    """
    job = session.get(Job, job_id)
    if job is None or KINDS[job.kind].evidence != "training":
        return None
    trained = KINDS[job.kind].trains
    needed = Job.evidence["memory"]["needed_bytes"].as_integer()
    same = (
        Job.state == JobState.SUCCEEDED,
        Job.kind.in_(kinds_where(lambda kind: kind.trains is trained)),
        Job.dataset_fingerprint == job.dataset_fingerprint,
        Job.queue == job.queue,
        Job.spec["model"] == literal(job.run.get("model"), JSONB),
        Job.spec["data"]["window"] == literal(job.run.get("data", {}).get("window"), JSONB),
        Job.spec["trainer"]["batch_size"] == literal(job.run.get("trainer", {}).get("batch_size"), JSONB),
        needed > 0,
    )
    own: int | None = session.scalar(select(needed).where(Job.id == job_id))
    used, planned = (job.evidence or {}).get("micro_batch_days"), job.overrides.get("micro_batch_days")
    if own is not None and used and planned and planned < used:  # the next attempt uses smaller micro-batches
        own = own * planned // used
    others: int | None = session.scalar(select(func.max(needed)).where(*same)) if own is None else None
    return own or others


def _is_live() -> ColumnElement[bool]:
    return Worker.last_seen > func.clock_timestamp() - bindparam("within", type_=Interval())


def _created_at_and_id() -> tuple[BindParameter[datetime], BindParameter[UUID]]:
    return bindparam("created_at", type_=DateTime(timezone=True)), bindparam("id", type_=Uuid())


def _position_query() -> Select[int, bool, datetime]:
    """Query of one job: the number of due jobs ahead, whether its queue has a live worker, and the time."""
    queue, priority = bindparam("queue", type_=Text()), bindparam("priority", type_=SmallInteger())
    mine = tuple_(*_created_at_and_id())
    first = or_(Job.priority < priority, and_(Job.priority == priority, tuple_(Job.created_at, Job.id) < mine))
    ahead = select(func.count()).where(Job.state == JobState.QUEUED, Job.queue == queue, first, is_due())
    live = select(Worker.name).where(Worker.queue == queue, _is_live())
    return select(ahead.scalar_subquery(), live.exists(), func.clock_timestamp())


def _positions_query() -> Select[UUID, int, datetime]:
    """Query of many jobs: the id, the number of due jobs ahead, and the time. The parameters `priority`, `created_at`
    and `id` are those of the last job of them in queue order.
    """
    in_line = (Job.priority, Job.created_at, Job.id)
    before = func.count().filter(is_due()).over(partition_by=Job.queue, order_by=in_line, rows=(None, -1))
    last = tuple_(bindparam("priority", type_=SmallInteger()), *_created_at_and_id())
    ahead = (
        select(Job.id, before.label("ahead"))
        .where(Job.state == JobState.QUEUED, Job.queue == any_(bindparam("queues", type_=ARRAY(Text))))
        .where(tuple_(*in_line) <= last)
        .subquery()
    )
    wanted = ahead.c.id == any_(bindparam("ids", type_=ARRAY(Uuid)))
    return select(ahead.c.id, ahead.c.ahead, func.clock_timestamp()).where(wanted)


_POSITION: Final = _position_query()
_POSITIONS: Final = _positions_query()
_END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC)
_LIVE: Final = select(Worker.queue).where(_is_live()).distinct()


def queue_position(session: Session, job: Job) -> QueuePosition:
    """The queue position of a job."""
    if job.state is not JobState.QUEUED:
        return None, None
    mine = {"queue": job.queue, "priority": job.priority, "created_at": job.created_at, "id": job.id}
    ahead, is_live, now = session.execute(_POSITION, mine | {"within": timedelta(seconds=WORKER_SECONDS)}).one()
    return _describe_position(job, ahead, is_live, now)


def jobs_ahead(session: Session, queue: str, priority: int) -> int:
    """The number of due jobs that would be ahead of a job submitted now."""
    newest = {"queue": queue, "priority": priority, "created_at": _END_OF_TIME, "id": _LAST_ID}
    ahead, _, _ = session.execute(_POSITION, newest | {"within": timedelta(seconds=WORKER_SECONDS)}).one()
    return ahead


def queue_positions(session: Session, jobs: Sequence[Job]) -> list[QueuePosition]:
    """The queue positions of many jobs, in two statements."""
    queued = [job for job in jobs if job.state is JobState.QUEUED]
    if len(queued) < 2:
        return [queue_position(session, job) for job in jobs]
    last = max(queued, key=lambda job: (job.priority, job.created_at, job.id))
    last_in_queue = {"priority": last.priority, "created_at": last.created_at, "id": last.id}
    parameters = {"queues": list({job.queue for job in queued}), "ids": [job.id for job in queued]}
    rows = session.execute(_POSITIONS, last_in_queue | parameters)
    found = {job_id: (count, now) for job_id, count, now in rows}
    live = live_queues(session)
    return [
        _describe_position(job, found[job.id][0], job.queue in live, found[job.id][1])
        if job.id in found
        else (None, None)
        for job in jobs
    ]


def _describe_position(job: Job, ahead: int, is_live: bool, now: datetime) -> QueuePosition:
    if not is_live:
        return ahead, f"0 live workers on queue {job.queue}"
    if job.not_before is not None and job.not_before > now:
        later = f"tries again in {(job.not_before - now).total_seconds():.0f} s"
        return ahead, f"{job.message}; {later}" if job.message else later
    return ahead, f"{ahead} ahead" if ahead else f"next on queue {job.queue}"


def heartbeat_worker(
    session: Session,
    *,
    name: str,
    host: str,
    pid: int,
    queue: str,
    device: str,
    busy_with: UUID | None,
    problem: str | None = None,
) -> None:
    """Record that a worker process is alive. `started_at` is when this process was first seen, `problem` why it takes
    no job.
    """
    now = func.clock_timestamp()
    values = {
        "name": name,
        "host": host,
        "pid": pid,
        "queue": queue,
        "device": device,
        "busy_with": busy_with,
        "problem": problem,
        "last_seen": now,
    }
    statement = insert(Worker).values(**values, started_at=now)
    started_at = case((Worker.pid == pid, Worker.started_at), else_=now)
    session.execute(
        statement.on_conflict_do_update(index_elements=[Worker.name], set_={**values, "started_at": started_at})
    )


def workers(session: Session) -> list[Worker]:
    """All workers, also ones that are not live, by name."""
    return list(session.scalars(select(Worker).order_by(Worker.name)))


def live_queues(session: Session, within_seconds: float = WORKER_SECONDS) -> set[str]:
    """Queues that have a live worker, by the workers' heartbeats."""
    return set(session.scalars(_LIVE, {"within": timedelta(seconds=within_seconds)}))
