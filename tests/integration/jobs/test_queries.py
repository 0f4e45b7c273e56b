"""Queries of jobs, workers and artifacts, also through the API's async driver."""

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import async_engine, async_sessions, async_transaction, transaction
from jobs.db.tables import Job
from jobs.errors import ArtifactNotFound, Invalid
from jobs.record import catalog, history, lifecycle, queries, submission
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Wanted

Sessions = sessionmaker[Session]


def submit(sessions: Sessions, **values: Any) -> UUID:
    fields: dict[str, Any] = {"kind": JobKind.TRAIN, "spec": {"seed": 0}, "spec_digest": "d", "queue": "cpu"} | values
    with transaction(sessions) as session:
        return submission.submit(session, submission.NewJob(**fields)).job.id


def claim(sessions: Sessions, job_id: UUID, lease_seconds: float = 30.0) -> Job | None:
    with transaction(sessions) as session:
        return lifecycle.claim(session, job_id, worker="w1", host="h", device="cpu", lease_seconds=lease_seconds)


def in_transaction(sessions: Sessions, function: Callable[..., Any], *arguments: Any, **values: Any) -> Any:
    with transaction(sessions) as session:
        return function(session, *arguments, **values)


def test_pages_are_stable_while_jobs_arrive(sessions: Sessions) -> None:
    old = [submit(sessions, name=f"job {i}") for i in range(7)]
    seen: list[UUID] = []
    cursor = None
    for _ in range(4):
        jobs, cursor = in_transaction(sessions, queries.page, cursor=cursor, limit=2)
        seen += [job.id for job in jobs]
        submit(sessions, name="new")
    assert seen == old[::-1]
    assert cursor is None


def test_page_filters(sessions: Sessions) -> None:
    parent = submit(sessions, kind=JobKind.HPO, queue="control", name="search 50%")
    child = submit(sessions, parent_id=parent, dataset="us", tags={"team": "a", "x": "1"})
    other = submit(sessions, tags={"team": "b"})
    claim(sessions, other)
    in_transaction(sessions, lifecycle.settle, other, 1, JobState.SUCCEEDED)

    def found(**values: Any) -> list[UUID]:
        jobs, _ = in_transaction(sessions, queries.page, queries.JobFilter(**values))
        return [job.id for job in jobs]

    assert found() == [other, child, parent]
    assert found(state=JobState.SUCCEEDED) == [other]
    assert found(kind=JobKind.HPO) == [parent]
    assert found(parent_id=parent) == [child]
    assert found(dataset="us") == [child]
    assert found(tag="team") == [other, child]
    assert found(tag="team=a") == [child]
    assert found(q="50%") == [parent]
    assert found(q="5%0") == []
    assert found(q="SEARCH", kind=JobKind.HPO) == [parent]
    assert found(q="search", kind=JobKind.TRAIN) == []
    assert found(q=str(child)[:30]) == ([child] if str(child)[:30] != str(other)[:30] else [other, child])
    assert found(q=str(child)) == [child]
    for cursor in ("nonsense", "", "eyJ9", "WzEsMl0="):
        with pytest.raises(Invalid):
            in_transaction(sessions, queries.page, cursor=cursor)


def test_a_page_has_no_spec_and_few_metrics(sessions: Sessions) -> None:
    made = [submit(sessions) for _ in range(3)]
    metrics = {"val/rank_ic": 0.1, "test/rank_ic": None, "val/rank_ic@5d": 0.2}
    best = {"epoch": 3, "value": 0.1, "metrics": metrics}
    for job_id, value in zip(made, (best, {"epoch": 3}, None), strict=True):
        change = update(Job).where(Job.id == job_id).values(metrics=metrics, best=value)
        in_transaction(sessions, lambda session, change=change: session.execute(change))
    (null, older, job), _ = in_transaction(sessions, queries.page)
    listed = {"val/rank_ic": 0.1, "test/rank_ic": None}
    assert job.metrics == listed
    assert job.best == best | {"metrics": listed}
    assert older.best == {"epoch": 3, "metrics": {}}
    assert null.best is None
    assert "spec" not in vars(job)


def test_due_jobs_and_queue_positions(sessions: Sessions) -> None:
    later, first = submit(sessions, priority=9), submit(sessions, priority=0)
    submit(sessions, queue="gpu")
    assert [job.id for job in in_transaction(sessions, queries.due_jobs, "cpu", 0.0, 10)] == [first, later]
    assert in_transaction(sessions, queries.due_jobs, "cpu", 60.0, 10) == []
    job = in_transaction(sessions, queries.get, later)
    assert in_transaction(sessions, queries.queue_position, job) == (1, "0 live workers on queue cpu")
    heartbeat = {"name": "h/cpu/0", "host": "h", "pid": 1, "queue": "cpu", "device": "cpu", "busy_with": None}
    in_transaction(sessions, queries.heartbeat_worker, **heartbeat)
    assert in_transaction(sessions, queries.live_queues) == {"cpu"}
    assert in_transaction(sessions, queries.queue_position, job) == (1, "1 ahead")
    assert in_transaction(sessions, queries.queue_position, in_transaction(sessions, queries.get, first)) == (
        0,
        "next on queue cpu",
    )
    claim(sessions, first)
    assert in_transaction(sessions, queries.queue_position, in_transaction(sessions, queries.get, first)) == (
        None,
        None,
    )


def test_worker_heartbeats(sessions: Sessions) -> None:
    heartbeat = {"name": "h/cpu/0", "host": "h", "pid": 1, "queue": "cpu", "device": "cpu", "busy_with": None}
    in_transaction(sessions, queries.heartbeat_worker, **heartbeat)
    (first,) = in_transaction(sessions, queries.workers)
    job_id = submit(sessions)
    in_transaction(sessions, queries.heartbeat_worker, **heartbeat | {"busy_with": job_id})
    (second,) = in_transaction(sessions, queries.workers)
    assert (second.started_at, second.busy_with) == (first.started_at, job_id)
    assert second.last_seen > first.last_seen
    in_transaction(sessions, queries.heartbeat_worker, **heartbeat | {"pid": 2})
    (restarted,) = in_transaction(sessions, queries.workers)
    assert restarted.started_at > first.started_at
    assert in_transaction(sessions, queries.live_queues, 0.0) == set()


def test_artifacts(sessions: Sessions) -> None:
    job_id = submit(sessions)
    claim(sessions, job_id)
    row = {
        "name": "model.safetensors",
        "path": "jobs/x/1/model",
        "size_bytes": 3,
        "media_type": "application/octet-stream",
    }
    in_transaction(sessions, catalog.add_artifact, job_id, 1, **row, sha256="a")
    in_transaction(sessions, catalog.add_artifact, job_id, 1, **row, sha256="b")
    assert [found.sha256 for found in in_transaction(sessions, catalog.artifacts, job_id)] == ["b"]
    assert in_transaction(sessions, catalog.artifact, job_id, "model.safetensors").size_bytes == 3
    with pytest.raises(ArtifactNotFound):
        in_transaction(sessions, catalog.artifact, job_id, "other")


def test_an_idle_in_transaction_timeout_is_an_operational_error(sessions: Sessions) -> None:
    with sessions() as session:
        backend = {"pid": session.scalar(text("SELECT pg_backend_pid()"))}
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '20ms'"))
        deadline = time.monotonic() + 60
        while in_transaction(
            sessions, Session.scalar, text("SELECT 1 FROM pg_stat_activity WHERE pid = :pid"), backend
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(OperationalError, match="idle-in-transaction"):
            session.execute(text("SELECT 1"))


async def _through_asyncpg(settings: Settings) -> None:
    engine = async_engine(settings)
    sessions = async_sessions(engine)
    async with async_transaction(sessions) as session:
        made = await session.run_sync(
            lambda s: submission.submit(
                s,
                submission.NewJob(
                    kind=JobKind.TRAIN, spec={}, spec_digest="d", queue="cpu", tags={"a": "b"}, queue_timeout_seconds=5
                ),
                idempotency=("k", "s"),
            )
        )
        assert (await session.run_sync(queries.get, made.job.id)).id == made.job.id
    async with async_transaction(sessions) as session:
        jobs, _ = await session.run_sync(
            lambda s: queries.page(s, queries.JobFilter(tag="a=b", q=str(made.job.id)[:8]), limit=1)
        )
        assert [job.id for job in jobs] == [made.job.id]
        assert await session.run_sync(queries.queue_position, jobs[0]) == (0, "0 live workers on queue cpu")
        assert await session.run_sync(history.series, made.job.id, ["val/"], 0, 100) == {}
        assert await session.run_sync(history.daily_series, [made.job.id], "rank_ic", "test", [5]) == {}
        assert await session.run_sync(catalog.datasets) == ([], None)
        assert await session.run_sync(queries.workers) == []
        job = await session.run_sync(
            lambda s: lifecycle.want(s, made.job.id, Wanted.CANCEL, by="me", expected_version=1)
        )
        assert job.state is JobState.CANCELLED
        assert [event.seq for event in await session.run_sync(history.read_after, job.id, 0)] == [1, 2]
    await engine.dispose()


def test_api_driver_runs_the_same_functions(settings: Settings) -> None:
    asyncio.run(_through_asyncpg(settings))


def test_an_attempt_in_smaller_pieces_needs_less_memory(sessions: Sessions) -> None:
    job_id = submit(sessions)
    with transaction(sessions) as session:
        job = queries.get(session, job_id)
        job.evidence = {"micro_batch_days": 8, "memory": {"needed_bytes": 1000}}
    assert in_transaction(sessions, queries.memory_needed, job_id) == 1000
    with transaction(sessions) as session:
        queries.get(session, job_id).overrides = {"micro_batch_days": 4}
    assert in_transaction(sessions, queries.memory_needed, job_id) == 500
