"""Login sessions of browsers: a cookie stands for the API key that was used to log in. The table holds the SHA-256 of
both; every request checks again that the key is valid, and its scopes.
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
    """Create a session and return its cookie; `replaces` is the cookie of a session to end. Deletes expired ones."""
    session.execute(delete(LoginSession).where(LoginSession.expires_at < func.now()))
    if replaces is not None:
        end(session, replaces)
    cookie = secrets.token_urlsafe(32)
    values = {"sha256": digest(cookie), "key_sha256": key_sha256}
    session.execute(insert(LoginSession).values(**values, expires_at=func.now() + LIFETIME))
    return cookie


def key_of(session: Session, cookie: str) -> str | None:
    """The SHA-256 of the key that the cookie stands for; null when the session has expired or does not exist."""
    valid = (LoginSession.sha256 == digest(cookie), LoginSession.expires_at > func.now())
    return session.scalars(select(LoginSession.key_sha256).where(*valid)).one_or_none()


def end(session: Session, cookie: str) -> None:
    """Delete the session of this cookie."""
    session.execute(delete(LoginSession).where(LoginSession.sha256 == digest(cookie)))
