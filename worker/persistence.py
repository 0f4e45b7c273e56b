"""Retried writes to Postgres, and the errors that mean that it is unavailable."""

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
)  # cannot be reached, or is shutting down
TICK_SECONDS: Final = 0.25
MAX_BACKOFF_SECONDS: Final = 2.0
logger = logging.getLogger(__name__)


def persist(sessions: sessionmaker[Session], write: Callable[[Session], T], give_up: Callable[[], bool]) -> T | None:
    """Run `write` in a transaction, retried while Postgres is unavailable; None when `give_up` returns True first."""
    failures = 0
    while True:
        try:
            with transaction(sessions) as session:
                return write(session)
        except POSTGRES_UNAVAILABLE as error:
            logger.warning("Postgres is unavailable, retrying: %s", error)
            if give_up():
                return None
            time.sleep(min(TICK_SECONDS * 2**failures, MAX_BACKOFF_SECONDS))
            failures = min(failures + 1, 8)
