"""Who asks. With neither an admin key nor a key in the table, only programs on this machine are served, without a name.

A program shows its key with every request. A browser shows it once (`POST /session`) and then carries a cookie.
"""

import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Final
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from api.http.database import Database, acting
from api.http.errors import Refused
from api.http.middleware import is_origin_of
from api.http.rate_limits import RateLimits
from jobs.access import keys, sessions
from jobs.access.audit import AuditEntry
from jobs.db.tables import ApiKey
from jobs.settings import Settings

log = logging.getLogger("api")
SCOPES: Final = frozenset(keys.SCOPES)
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
COOKIE: Final = "atft_session"
_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="API key",
    description="`Authorization: Bearer <key>`; not needed on loopback while no key is configured",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one key may have at once, or in a day; the settings' limits where the key has none of its own."""

    jobs: int
    streams: int
    upload_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """`is_valid` asks the record whether this is still so: for what lasts longer than one request."""

    name: str
    scopes: frozenset[str]
    limits: Limits
    is_valid: Callable[[Session], bool]


def _principal(
    settings: Settings,
    name: str,
    scopes: Iterable[str],
    is_valid: Callable[[Session], bool],
    quota: Mapping[str, int] | None = None,
) -> Principal:
    own = {
        "jobs": settings.quota_jobs,
        "streams": settings.quota_streams,
        "upload_bytes": settings.quota_upload_bytes,
    } | dict(quota or {})
    granted = frozenset(scopes)
    return Principal(
        name=name, scopes=SCOPES if "admin" in granted else granted, limits=Limits(**own), is_valid=is_valid
    )


def _configured(session: Session) -> bool:
    """An expired key counts too: the server must not open when its last key runs out."""
    return bool(session.scalar(sa.select(sa.exists().where(ApiKey.revoked_at.is_(None)))))


def _is_good(sha256: str, session: Session) -> bool:
    return keys.find_by_digest(session, sha256) is not None


def _has_session(cookie: str, principal: "Principal", session: Session) -> bool:
    return sessions.key_of(session, cookie) is not None and principal.is_valid(session)


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
    if not await database.read(keys.any_valid):
        raise RuntimeError(
            f"refusing to serve on {settings.bind}: no API key is configured. "
            "Set ATFT_ADMIN_KEY, make a key with `atft keys`, or bind to 127.0.0.1"
        )


def is_local(request: Request) -> bool:
    """The peer and the name by which it calls us: a page that rebinds its own name to 127.0.0.1 does not pass."""
    peer = request.client.host if request.client else ""
    try:
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:  # not a name at all
        return False
    return is_loopback(peer) and is_loopback(name)


def _peer(request: Request) -> str:
    return request.client.host if request.client else "an unknown address"


def _unauthorized(detail: str) -> Refused:
    return Refused(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


async def authenticate(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Principal:
    settings: Settings = request.app.state.settings
    rate_limits: RateLimits = request.app.state.rate_limits
    principal = await _identify(request, settings, credentials)
    request.state.rate = rate_limits.count_request(principal.name, settings.quota_requests)
    if request.method not in SAFE_METHODS:
        acting.set(_act(request, principal, request.url.path))
    return principal


def _act(request: Request, principal: Principal, target: str) -> AuditEntry:
    return AuditEntry(
        principal=principal.name,
        action=f"{request.method} {request.state.route}",
        target=target,
        request_id=request.state.request_id,
        address=request.client.host if request.client else None,
    )


async def _identify(
    request: Request, settings: Settings, credentials: HTTPAuthorizationCredentials | None
) -> Principal:
    database: Database = request.app.state.database
    if credentials is not None:
        found = await _by_key(request, settings, credentials.credentials)
        if found is None:
            log.warning("request %s: refused an API key from %s", request.state.request_id, _peer(request))
            raise _unauthorized("this API key is unknown, revoked or expired")
        return found
    if cookie := request.cookies.get(COOKIE):
        sha256 = await database.read(sessions.key_of, cookie)
        found = None if sha256 is None else await _by_digest(request, settings, sha256)
        if found is not None:
            require_same_origin(request)
            return replace(found, is_valid=partial(_has_session, cookie, found))
    if settings.admin_key is None and is_local(request) and not await database.read(_configured):
        return _principal(settings, "anonymous", SCOPES, lambda session: not _configured(session))
    raise _unauthorized("send an API key: Authorization: Bearer <key>, or log in on the page")


async def _by_key(request: Request, settings: Settings, key: str) -> Principal | None:
    """A typing error is told by the key's checksum, without the record."""
    admin = settings.admin_key is not None and hmac.compare_digest(
        key.encode(), settings.admin_key.get_secret_value().encode()
    )
    return await _by_digest(request, settings, keys.digest(key)) if admin or keys.is_well_formed(key) else None


async def _by_digest(request: Request, settings: Settings, sha256: str) -> Principal | None:
    """Who has the key of this SHA-256, when it is good now."""
    admin_key = settings.admin_key.get_secret_value() if settings.admin_key is not None else None
    if admin_key is not None and hmac.compare_digest(sha256, keys.digest(admin_key)):
        return _principal(settings, "admin", SCOPES, lambda _: True)
    database: Database = request.app.state.database
    key = await database.read(keys.find_by_digest, sha256)
    if key is None:
        return None
    if request.app.state.rate_limits.should_record_use(key.id):
        await database.write(keys.mark_used, key.id)
    return _principal(settings, f"key:{key.id}", key.scopes, partial(_is_good, sha256), key.quota)


async def log_in(request: Request, key: str) -> str:
    """The cookie that stands for this key from now on. Raises Refused (401)."""
    settings: Settings = request.app.state.settings
    principal = await _by_key(request, settings, key)
    if principal is None:
        log.warning("request %s: refused a log-in from %s", request.state.request_id, _peer(request))
        raise _unauthorized("this API key is unknown, revoked or expired")
    database: Database = request.app.state.database
    acting.set(_act(request, principal, "/session"))
    return await database.write(sessions.begin, keys.digest(key), replaces=request.cookies.get(COOKIE))


def require_same_origin(request: Request) -> None:
    """A browser adds the cookie by itself, so that an unsafe method must say that a page of ours asks: browsers tell
    where every such request comes from. Raises Refused (403) when nothing is said.
    """
    if request.method in SAFE_METHODS or request.headers.get("sec-fetch-site") == "same-origin":
        return
    origin = request.headers.get("origin")
    if origin is None or not is_origin_of(origin, request.headers.get("host", "")):
        detail = "a request with a session cookie must come from a page of this server; programs send an API key"
        raise Refused(403, "foreign_origin", detail)


def require(scope: str) -> Callable[[Principal], Awaitable[Principal]]:
    """The dependency of a route that needs `scope`."""

    async def allowed(principal: Annotated[Principal, Depends(authenticate)]) -> Principal:
        check_scope(principal, scope)
        return principal

    return allowed


def check_scope(principal: Principal, scope: str) -> None:
    """Raises Refused (403)."""
    if scope not in principal.scopes:
        raise Refused(403, "forbidden", f"this API key lacks the scope {scope}")


Reader = Annotated[Principal, Depends(require("jobs:read"))]
Submitter = Annotated[Principal, Depends(require("jobs:write"))]
DatasetWriter = Annotated[Principal, Depends(require("datasets:write"))]
Admin = Annotated[Principal, Depends(require("admin"))]
