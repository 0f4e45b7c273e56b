"""Short database transactions with a time limit. Every error of an unreachable Postgres is raised as Unavailable."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

import asyncpg
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from api.http.errors import Unavailable
from jobs.db.session import async_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

P = ParamSpec("P")
Result = TypeVar("Result")
LIMIT_SECONDS: Final = 8.0

# SQLSTATE classes of transient errors: connection, rollback, resources, locks, operator, system.
_TRANSIENT: Final = ("08", "40", "53", "55", "57", "58")


def _is_transient(error: exc.DBAPIError) -> bool:
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return (
        error.connection_invalidated
        or state.startswith(_TRANSIENT)
        or (not state and isinstance(error, exc.InterfaceError | exc.OperationalError))
    )


@asynccontextmanager
async def _bounded(seconds: float) -> "AsyncIterator[None]":
    try:
        async with asyncio.timeout(seconds):
            yield
    except (OSError, TimeoutError, exc.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable from error  # raised by the driver while it connects, before SQLAlchemy wraps anything
    except exc.DBAPIError as error:
        if _is_transient(error):
            raise Unavailable from error
        raise


class Database:
    """Runs synchronous functions `fn(session, …)`, each in a transaction of its own. Raises Unavailable."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        reading: async_sessionmaker[AsyncSession],
        *,
        limit_seconds: float = LIMIT_SECONDS,
    ) -> None:
        self._sessions = sessions
        self._reading = reading
        self._limit_seconds = limit_seconds

    async def read(self, fn: Callable[Concatenate[Session, P], Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Run `fn` read-only. Each statement sees what is committed when it runs."""
        async with _bounded(self._limit_seconds), self._reading() as session:
            return await session.run_sync(fn, *args, **kwargs)

    async def write(self, fn: Callable[Concatenate[Session, P], Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Run `fn` and commit."""
        async with _bounded(self._limit_seconds), async_transaction(self._sessions) as session:
            return await session.run_sync(fn, *args, **kwargs)
