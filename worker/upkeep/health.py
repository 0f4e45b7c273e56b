"""The health check of a worker, by its heartbeat in the database; runs in a process of its own."""

from typing import Final

from sqlalchemy import select

from jobs.db.session import sync_engine, sync_sessions, transaction
from jobs.db.tables import Worker
from jobs.record.queries import seconds_ago
from jobs.settings import Settings
from worker.slot import DeviceSlot

HEARTBEAT_TIMEOUT_SECONDS: Final = 60.0


def is_healthy(settings: Settings, slot: DeviceSlot) -> bool:
    """True if its heartbeat is less than a minute old by the database's clock. Raises OperationalError."""
    engine = sync_engine(settings, pool_size=1)
    fresh = select(Worker.name).where(
        Worker.name == slot.name, Worker.last_seen > seconds_ago(HEARTBEAT_TIMEOUT_SECONDS)
    )
    try:
        with transaction(sync_sessions(engine)) as session:
            return session.scalar(fresh) is not None
    finally:
        engine.dispose()
