"""The retried write: it is repeated while Postgres is unavailable, until `give_up` returns True."""

from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from worker import persistence
from worker.persistence import persist

SESSIONS: Any = sessionmaker(Session)


def unavailable() -> OperationalError:
    return OperationalError("SELECT 1", {}, Exception("refused"))


def test_a_write_is_retried_until_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(persistence, "time", SimpleNamespace(sleep=pauses.append))
    errors = [unavailable() for _ in range(5)]

    def write(_session: Session) -> str:
        if errors:
            raise errors.pop()
        return "written"

    assert persist(SESSIONS, write, lambda: False) == "written"
    assert pauses == [0.25, 0.5, 1.0, 2.0, 2.0]


def test_it_gives_up_when_give_up_returns_true() -> None:
    def write(_session: Session) -> str:
        raise unavailable()

    assert persist(SESSIONS, write, lambda: True) is None


def test_another_error_is_not_retried() -> None:
    def write(_session: Session) -> str:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        persist(SESSIONS, write, lambda: False)
