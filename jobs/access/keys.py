"""API keys of the form `atft_{prefix}_{secret}{crc}`. Only their SHA-256 is stored; a key is shown once, when created.

The secret has 160 random bits, so a plain hash is as good as a slow one. The checksum distinguishes a typing error
from a revoked key.
"""

import hashlib
import re
import secrets
import zlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import uuid_utils.compat as uuid7
from sqlalchemy import ColumnElement, and_, bindparam, func, insert, or_, select, update
from sqlalchemy.orm import Session

from jobs.db.tables import ApiKey
from jobs.errors import Invalid, KeyNotFound

SCOPES: Final = ("jobs:read", "jobs:write", "datasets:write", "admin")
QUOTAS: Final = ("jobs", "streams", "upload_bytes")
LAST_USED_PRECISION: Final = timedelta(minutes=1)
_PATTERN: Final = re.compile(r"atft_[0-9a-f]{8}_[0-9a-f]{48}")


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def digest(secret: str) -> str:
    """The SHA-256 that is stored of a secret. Looking it up in an index leaks nothing of the secret by timing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def is_well_formed(token: str) -> bool:
    """Whether the token has the form of a key and its checksum is right; it need not exist."""
    return _PATTERN.fullmatch(token) is not None and _checksum(token[:-8]) == token[-8:]


def create(
    session: Session,
    *,
    name: str,
    scopes: list[str],
    expires_at: datetime | None = None,
    quota: Mapping[str, int] | None = None,
) -> tuple[ApiKey, str]:
    """Create a key; returns its row and its token, which is not stored. `quota` overrides some of the settings' limits.

    Raises Invalid for an unknown scope or quota.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise Invalid(f"unknown scopes {unknown}: choose from {', '.join(SCOPES)}", "/scopes")
    if set(quota or {}) - set(QUOTAS) or any(limit < 0 for limit in (quota or {}).values()):
        raise Invalid(f"a quota is a number of {', '.join(QUOTAS)}, 0 or more", "/quota")
    prefix = secrets.token_hex(4)
    body = f"atft_{prefix}_{secrets.token_hex(20)}"
    token = body + _checksum(body)
    statement = insert(ApiKey).values(
        id=uuid7.uuid7(),
        name=name,
        prefix=prefix,
        sha256=digest(token),
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
        quota=dict(quota or {}),
    )
    return session.scalars(statement.returning(ApiKey)).one(), token


def _is_valid() -> ColumnElement[bool]:
    return and_(ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()))


def find(session: Session, token: str) -> ApiKey | None:
    """The row of a valid key (not revoked, not expired) by its token; null for any other."""
    return find_by_digest(session, digest(token)) if is_well_formed(token) else None


_BY_DIGEST: Final = select(ApiKey).where(ApiKey.sha256 == bindparam("sha256"), _is_valid())


def find_by_digest(session: Session, sha256: str) -> ApiKey | None:
    """The row of a valid key by the SHA-256 of its token."""
    return session.scalars(_BY_DIGEST, {"sha256": sha256}).one_or_none()


def mark_used(session: Session, key_id: UUID) -> None:
    """Set `last_used_at`, at most once a minute."""
    stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - LAST_USED_PRECISION)
    session.execute(
        update(ApiKey).where(ApiKey.id == key_id, stale).values(last_used_at=func.now()),
        execution_options={"synchronize_session": False},
    )


def list_keys(session: Session) -> list[ApiKey]:
    """All keys, also revoked ones, newest first."""
    return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id.desc())))


def any_valid(session: Session) -> bool:
    """Whether any key is valid now; without one the server accepts loopback clients only."""
    return session.scalar(select(select(ApiKey.id).where(_is_valid()).exists())) or False


def revoke(session: Session, key_id: UUID) -> ApiKey:
    """Revoke a key; idempotent. Raises KeyNotFound."""
    change = update(ApiKey).where(ApiKey.id == key_id).values(revoked_at=func.coalesce(ApiKey.revoked_at, func.now()))
    key = session.scalars(
        change.returning(ApiKey), execution_options={"synchronize_session": False, "populate_existing": True}
    ).one_or_none()
    if key is None:
        raise KeyNotFound(f"there is no key {key_id}")
    return key
