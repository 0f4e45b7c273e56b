"""Who asks. With neither an admin key nor a key in the table, only programs on this machine are served, without a name.

Quotas, sessions for browsers and the life of keys are built on `Principal` and `require`.
"""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from api.database import Database
from api.errors import Refused
from jobs import keys
from jobs.settings import Settings
from jobs.tables import ApiKey

SCOPES: Final = frozenset(keys.SCOPES)
_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="API key",
    description="`Authorization: Bearer <key>`; not needed on loopback while no key is configured",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    name: str
    scopes: frozenset[str]


ANONYMOUS: Final = Principal(name="anonymous", scopes=SCOPES)


def _configured(session: Session) -> bool:
    """An expired key counts too: the server must not open when its last key runs out."""
    return bool(session.scalar(sa.select(sa.exists().where(ApiKey.revoked_at.is_(None)))))


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def check_bind(settings: Settings, database: Database) -> None:
    """Raise RuntimeError rather than listen beyond loopback without a key."""
    if is_loopback(settings.bind) or settings.admin_key is not None:
        return
    if not await database.read(keys.exist):
        raise RuntimeError(
            f"refusing to serve on {settings.bind}: no API key is configured. "
            "Set ATFT_ADMIN_KEY, make a key with `atft keys`, or bind to 127.0.0.1"
        )


def _from_this_machine(request: Request) -> bool:
    """The peer and the name by which it calls us: a page that rebinds its own name to 127.0.0.1 does not pass."""
    peer = request.client.host if request.client else ""
    name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    return is_loopback(peer) and is_loopback(name)


def _unauthorized(detail: str) -> Refused:
    return Refused(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


async def principal(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Principal:
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    if credentials is None:
        if settings.admin_key is None and _from_this_machine(request) and not await database.read(_configured):
            return ANONYMOUS
        raise _unauthorized("send an API key: Authorization: Bearer <key>")
    given = credentials.credentials
    if settings.admin_key is not None and hmac.compare_digest(
        given.encode(), settings.admin_key.get_secret_value().encode()
    ):
        return Principal(name="admin", scopes=SCOPES)
    key = await database.read(keys.find, given)
    if key is None:
        raise _unauthorized("this API key is unknown, revoked or expired")
    scopes = SCOPES if "admin" in key.scopes else frozenset(key.scopes)
    return Principal(name=f"key:{key.id}", scopes=scopes)


def require(scope: str) -> Callable[[Principal], Awaitable[Principal]]:
    """The dependency of a route that needs `scope`."""

    async def allowed(who: Annotated[Principal, Depends(principal)]) -> Principal:
        if scope not in who.scopes:
            raise Refused(403, "forbidden", f"this API key lacks the scope {scope}")
        return who

    return allowed


Reader = Annotated[Principal, Depends(require("jobs:read"))]
Submitter = Annotated[Principal, Depends(require("jobs:write"))]
DatasetWriter = Annotated[Principal, Depends(require("datasets:write"))]
