"""SQLAlchemy engines and sessions, sync and async, and the only functions that commit: `transaction` and
`async_transaction`.
"""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from pydantic_core import from_json, to_json
from sqlalchemy import Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from jobs.settings import Settings

IDLE_SECONDS: Final = 1.0

# Transactions are short: one that takes longer is a bug and must not keep rows locked.
_TIMEOUTS: Final = {
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",
}


def sync_engine(settings: Settings, *, pool_size: int = 5) -> Engine:
    """An engine on psycopg, for workers, admin commands and tests. A dead peer is noticed within about 15 s, and every
    lost connection raises OperationalError.
    """
    engine = create_engine(
        settings.sync_database_url,
        pool_size=pool_size,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 5,
            "tcp_user_timeout": 15_000,
            "application_name": "atft",
            "options": " ".join(f"-c {name}={value}" for name, value in _TIMEOUTS.items()),
        },
    )
    event.listen(engine, "handle_error", _to_operational_error)
    return engine


def _to_operational_error(context: ExceptionContext) -> Exception | None:
    """Convert other disconnect errors to OperationalError: psycopg raises InternalError for an idle-in-transaction
    timeout.
    """
    error = context.sqlalchemy_exception
    if context.is_disconnect and isinstance(error, DBAPIError) and not isinstance(error, OperationalError):
        return OperationalError(error.statement, error.params, error.orig or error, connection_invalidated=True)
    return None


def async_engine(settings: Settings, *, pool_size: int = 10, read_only: bool = False) -> AsyncEngine:
    """An engine on asyncpg, for the API. With `read_only` every statement is its own transaction, which saves round
    trips, and Postgres refuses writes.
    """
    reading = {"default_transaction_read_only": "on"} if read_only else {}
    engine = create_async_engine(
        settings.async_database_url,
        pool_size=pool_size,
        json_deserializer=from_json,  # several times as fast as the json module, with the same result
        json_serializer=_to_json,
        connect_args={
            "timeout": 5,
            "command_timeout": 30,
            "server_settings": {"application_name": "atft", **_TIMEOUTS, **reading},
        },
        **({"isolation_level": "AUTOCOMMIT"} if read_only else {}),
    )
    event.listen(engine.sync_engine, "checkin", _record_use)
    event.listen(engine.sync_engine, "checkout", _check_alive)
    return engine


def _to_json(value: object) -> str:
    """The value as JSON. NaN and infinity are written as they are, for Postgres to refuse."""
    return to_json(value, inf_nan_mode="constants").decode()


def _record_use(_connection: object, entry: ConnectionPoolEntry) -> None:
    entry.info["used"] = time.monotonic()


def _check_alive(connection: Any, entry: ConnectionPoolEntry, _proxy: object) -> None:
    """A cheaper `pool_pre_ping`, which costs three round trips at each use, more than most reads: the driver already
    knows when the peer has closed a connection; only one that has been idle may be dead unnoticed and is pinged.
    """
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError
    if time.monotonic() - entry.info.get("used", time.monotonic()) > IDLE_SECONDS:
        try:
            connection.ping()
        except connection.dbapi.Error as error:
            raise InvalidatePoolError from error


def sync_sessions(engine: Engine) -> sessionmaker[Session]:
    """A session factory whose rows stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)


def async_sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """The same for an async engine."""
    return async_sessionmaker(engine, expire_on_commit=False)


@contextmanager
def transaction(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """A session that commits when the block ends and rolls back on an exception."""
    with sessions.begin() as session:
        yield session


@asynccontextmanager
async def async_transaction(sessions: async_sessionmaker[AsyncSession]) -> AsyncIterator[AsyncSession]:
    """The async version of `transaction`."""
    async with sessions.begin() as session:
        yield session
