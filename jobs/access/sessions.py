"""Browsers that showed a key once and then carry a cookie. The record holds the cookie's SHA-256 and the key's: what
the key may do now, and whether it is still valid, is asked again with every request.
"""

import secrets
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from jobs.access.keys import digest
from jobs.db.tables import LoginSession

LIFETIME: Final = timedelta(hours=12)


def begin(session: Session, key_sha256: str, replaces: str | None = None) -> str:
    """The value of a new cookie, never of one that was brought along. Sessions that are over are dropped here."""
    session.execute(delete(LoginSession).where(LoginSession.expires_at < func.now()))
    if replaces is not None:
        end(session, replaces)
    cookie = secrets.token_urlsafe(32)
    values = {"sha256": digest(cookie), "key_sha256": key_sha256}
    session.execute(insert(LoginSession).values(**values, expires_at=func.now() + LIFETIME))
    return cookie


def key_of(session: Session, cookie: str) -> str | None:
    """SHA-256 of the key that the cookie stands for; null when the session is over or was never begun."""
    valid = (LoginSession.sha256 == digest(cookie), LoginSession.expires_at > func.now())
    return session.scalars(select(LoginSession.key_sha256).where(*valid)).one_or_none()


def end(session: Session, cookie: str) -> None:
    session.execute(delete(LoginSession).where(LoginSession.sha256 == digest(cookie)))
