"""Is the worker in this slot alive, by its own heartbeat? Asked by health checks, in a process of its own."""

from typing import Final

from sqlalchemy import select

from jobs.db.session import sync_engine, sync_sessions, transaction
from jobs.db.tables import Worker
from jobs.record.queries import seconds_ago
from jobs.settings import Settings
from worker.slot import DeviceSlot

HEARTBEAT_TIMEOUT_SECONDS: Final = 60.0


def is_healthy(settings: Settings, slot: DeviceSlot) -> bool:
    """Its heartbeat was seen within a minute, by the database's clock. OperationalError: Postgres is away."""
    engine = sync_engine(settings, pool_size=1)
    fresh = select(Worker.name).where(
        Worker.name == slot.name, Worker.last_seen > seconds_ago(HEARTBEAT_TIMEOUT_SECONDS)
    )
    try:
        with transaction(sync_sessions(engine)) as session:
            return session.scalar(fresh) is not None
    finally:
        engine.dispose()
