"""Writing to Postgres from a worker while Postgres may be away: the errors that say so, and a write that is retried."""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction

T = TypeVar("T")
POSTGRES_UNAVAILABLE: Final = (
    OperationalError,
    InterfaceError,
    PoolTimeout,
)  # Postgres cannot be reached, or is going down: try again
TICK_SECONDS: Final = 0.25
MAX_BACKOFF_SECONDS: Final = 2.0
logger = logging.getLogger(__name__)


def persist(sessions: sessionmaker[Session], write: Callable[[Session], T], give_up: Callable[[], bool]) -> T | None:
    """Run `write` in a transaction, again and again while Postgres is away; None when `give_up` says so first."""
    failures = 0
    while True:
        try:
            with transaction(sessions) as session:
                return write(session)
        except POSTGRES_UNAVAILABLE as error:
            logger.warning("Postgres is away, trying again: %s", error)
            if give_up():
                return None
            time.sleep(min(TICK_SECONDS * 2**failures, MAX_BACKOFF_SECONDS))
            failures = min(failures + 1, 8)
