"""Short database transactions with a time limit. Every error of an unreachable Postgres is raised as Unavailable."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

import asyncpg
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from api.http.errors import Unavailable
from jobs.access import audit
from jobs.access.audit import AuditEntry
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


# Set by `auth` for a request with an unsafe method: its first write transaction inserts the entry in the audit log.
audit_entry: Final[ContextVar[AuditEntry | None]] = ContextVar("audit_entry", default=None)
AUDIT_TARGET: Final = "audit_target"  # key of a session's `info`: the entry's target when it is not the request's path


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
        """Run `fn` and commit, with the audit entry of the request in the same transaction."""
        entry = audit_entry.get()

        def audited(session: Session) -> Result:
            result = fn(session, *args, **kwargs)
            if entry is not None:
                audit.record(session, entry.with_target(session.info.get(AUDIT_TARGET, entry.target)))
            return result

        async with _bounded(self._limit_seconds), async_transaction(self._sessions) as session:
            result = await session.run_sync(audited)
        audit_entry.set(None)  # one row for each request, however many transactions it takes
        return result
