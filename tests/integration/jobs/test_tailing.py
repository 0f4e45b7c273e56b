"""Batched reads give the same as single reads, and a read-only engine cannot write."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from api.http.database import Database
from api.http.sse import MAX_ROWS_PER_READ, read_updates
from atft.events import Log
from jobs.db.session import async_engine, async_sessions, transaction
from jobs.record import history, lifecycle, queries, submission, tailing
from jobs.settings import Settings
from jobs.states import JobKind

Sessions = sessionmaker[Session]
LAST = 81  # queued, running, and 79 lines


def make(session: Session, **values: Any) -> UUID:
    fields: dict[str, Any] = {"kind": JobKind.TRAIN, "spec": {}, "spec_digest": "d", "queue": "cpu"} | values
    return submission.submit(session, submission.NewJob(**fields)).job.id


def test_the_events_after_many_positions_in_one_read(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        job_id, quiet = make(session), make(session)
        assert lifecycle.claim(session, job_id, worker="w", host="h", device="cpu", lease_seconds=60) is not None
        history.append(session, job_id, 1, [Log(child_seq=n, message=f"line {n}") for n in range(1, LAST - 1)])
    gone = uuid4()
    positions = [(job_id, 0), (job_id, LAST - 1), (job_id, LAST), (quiet, 0), (gone, 0)]
    with transaction(sessions) as session:
        found = read_updates(session, positions)
        after = {position: [each.seq for each in update.events] for position, update in found.items()}
        assert after == {
            (job_id, 0): list(range(1, LAST + 1)), (job_id, LAST - 1): [LAST], (job_id, LAST): [], (quiet, 0): [1],
        }  # fmt: skip
        assert all(update.complete for update in found.values())
        assert found[job_id, 0].events[-1].body == {"level": "info", "message": f"line {LAST - 2}"}
        # With many positions each gets fewer events, and reports that there are more.
        many = read_updates(session, [(job_id, n) for n in range(LAST)])
        assert [each.seq for each in many[job_id, 0].events] == list(range(1, 11))
        assert not many[job_id, 0].complete
        assert many[job_id, LAST - 1].complete
        assert sum(len(update.events) for update in many.values()) <= max(MAX_ROWS_PER_READ, 10 * LAST)
        assert tailing.statuses(session, [gone]) == {}


def test_the_positions_of_a_page_are_those_of_each_job(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        ids = [make(session, priority=priority, queue=queue) for queue in ("cpu", "gpu") for priority in (5, 9, 0, 5)]
        later = ids[2]
        session.execute(text("UPDATE jobs SET not_before = now() + interval '1 hour' WHERE id = :id"), {"id": later})
        lifecycle.claim(session, ids[0], worker="w", host="h", device="cpu", lease_seconds=60)
        heartbeat: dict[str, Any] = {"name": "n", "host": "h", "pid": 1, "device": "cpu", "busy_with": None}
        queries.heartbeat_worker(session, queue="cpu", **heartbeat)
    with transaction(sessions) as session:
        jobs = [queries.get(session, job_id) for job_id in ids]
        of_each = [queries.queue_position(session, job) for job in jobs]
        assert [position for position, _ in of_each] == [None, 1, 0, 0, 1, 3, 0, 2]
        assert "tries again in" in str(of_each[2][1])
        assert [p for p, _ in queries.queue_positions(session, jobs)] == [p for p, _ in of_each]
        assert queries.queue_positions(session, jobs[3:]) == of_each[3:]
        assert queries.queue_positions(session, jobs[:1]) == [(None, None)]


def test_a_read_only_engine_cannot_write_and_survives_a_lost_connection(settings: Settings, sessions: Sessions) -> None:
    async def run() -> None:
        writing, reading = async_engine(settings), async_engine(settings, read_only=True)
        opened: list[Any] = []
        for engine in (writing, reading):
            event.listen(engine.sync_engine, "connect", lambda connection, _: opened.append(connection))
        database = Database(async_sessions(writing), async_sessions(reading))
        try:
            assert await database.read(queries.workers) == []
            with pytest.raises(DBAPIError, match="read-only"):
                await database.read(make)
            made = await database.write(make)
            assert (await database.read(queries.get, made)).id == made
            with transaction(sessions) as session:
                others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                session.execute(text(f"{others} AND datname = current_database() AND application_name = 'atft'"))
            async with asyncio.timeout(10):
                while not all(c.driver_connection.is_closed() for c in opened):  # noqa: ASYNC110 - there is no event
                    await asyncio.sleep(0.005)
            assert (await database.read(queries.get, made)).id == made
            assert await database.write(make) != made
        finally:
            await writing.dispose()
            await reading.dispose()

    asyncio.run(run())
