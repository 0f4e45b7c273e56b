"""Authentication: the principal of a request, by its API key or session cookie, and its scopes.

Programs send a key with every request; a browser exchanges it once (`POST /session`) for a session cookie. With neither
an admin key nor a key in the table, requests from this machine are served as the principal `anonymous`.
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

from api.http.database import Database
from api.http.errors import Refused
from api.http.middleware import is_origin_of
from api.http.rate_limits import RateLimits
from jobs.access import audit, keys, sessions
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
    """Limits of one key: unfinished jobs, open streams, bytes uploaded a day. The settings' values are the defaults."""

    jobs: int
    streams: int
    upload_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """An authenticated caller. `is_valid` checks in the database that its key or session is still valid."""

    name: str
    scopes: frozenset[str]
    limits: Limits
    is_valid: Callable[[Session], bool]


def _make_principal(
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


def _has_keys(session: Session) -> bool:
    """Whether any key is not revoked. Expired keys count, or the server would serve anonymous requests after the last
    one has expired.
    """
    return bool(session.scalar(sa.select(sa.exists().where(ApiKey.revoked_at.is_(None)))))


def _is_valid_key(sha256: str, session: Session) -> bool:
    return keys.find_by_digest(session, sha256) is not None


def _is_valid_session(cookie: str, principal: "Principal", session: Session) -> bool:
    return sessions.key_of(session, cookie) is not None and principal.is_valid(session)


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address is of this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def check_bind(settings: Settings, database: Database) -> None:
    """Raise RuntimeError when the server would listen beyond loopback without any API key."""
    if is_loopback(settings.bind) or settings.admin_key is not None:
        return
    if not await database.read(keys.any_valid):
        raise RuntimeError(
            f"refusing to serve on {settings.bind}: no API key is configured. "
            "Set ATFT_ADMIN_KEY, make a key with `atft keys`, or bind to 127.0.0.1"
        )


def is_local(request: Request) -> bool:
    """Whether both the peer's address and the Host header are loopback; the latter refuses DNS rebinding."""
    peer = request.client.host if request.client else ""
    try:
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:  # not a host name
        return False
    return is_loopback(peer) and is_loopback(name)


def _peer(request: Request) -> str:
    return request.client.host if request.client else "an unknown address"


def _unauthorized(detail: str) -> Refused:
    return Refused(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


async def authenticate(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Principal:
    """The principal of the request, which is counted against its rate limit. Raises Refused (401, 403, 429)."""
    settings: Settings = request.app.state.settings
    rate_limits: RateLimits = request.app.state.rate_limits
    principal = await _find_principal(request, settings, credentials)
    request.state.rate = rate_limits.count_request(principal.name, settings.quota_requests)
    return principal


async def audit_entry(request: Request, principal: Annotated[Principal, Depends(authenticate)]) -> AuditEntry:
    """The audit entry of the request, which its route records in the transaction that makes the change."""
    return _audit_entry(request, principal)


def _audit_entry(request: Request, principal: Principal) -> AuditEntry:
    return AuditEntry(
        principal=principal.name,
        action=f"{request.method} {request.state.route}",
        target=request.url.path,
        request_id=request.state.request_id,
        address=request.client.host if request.client else None,
    )


async def _find_principal(
    request: Request, settings: Settings, credentials: HTTPAuthorizationCredentials | None
) -> Principal:
    database: Database = request.app.state.database
    if credentials is not None:
        found = await _principal_of_key(request, settings, credentials.credentials)
        if found is None:
            log.warning("request %s: refused an API key from %s", request.state.request_id, _peer(request))
            raise _unauthorized("this API key is unknown, revoked or expired")
        return found
    if cookie := request.cookies.get(COOKIE):
        sha256 = await database.read(sessions.key_of, cookie)
        found = None if sha256 is None else await _principal_of_digest(request, settings, sha256)
        if found is not None:
            require_same_origin(request)
            return replace(found, is_valid=partial(_is_valid_session, cookie, found))
    if settings.admin_key is None and is_local(request) and not await database.read(_has_keys):
        return _make_principal(settings, "anonymous", SCOPES, lambda session: not _has_keys(session))
    raise _unauthorized("send an API key: Authorization: Bearer <key>, or log in on the page")


async def _principal_of_key(request: Request, settings: Settings, key: str) -> Principal | None:
    """The principal of a key; None when it is not valid. The checksum refuses a mistyped key without a query."""
    admin = settings.admin_key is not None and hmac.compare_digest(
        key.encode(), settings.admin_key.get_secret_value().encode()
    )
    return (
        await _principal_of_digest(request, settings, keys.digest(key)) if admin or keys.is_well_formed(key) else None
    )


async def _principal_of_digest(request: Request, settings: Settings, sha256: str) -> Principal | None:
    """The principal of the key with this SHA-256; None when it is unknown, revoked or expired."""
    admin_key = settings.admin_key.get_secret_value() if settings.admin_key is not None else None
    if admin_key is not None and hmac.compare_digest(sha256, keys.digest(admin_key)):
        return _make_principal(settings, "admin", SCOPES, lambda _: True)
    database: Database = request.app.state.database
    key = await database.read(keys.find_by_digest, sha256)
    if key is None:
        return None
    if request.app.state.rate_limits.should_record_use(key.id):
        await database.write(keys.mark_used, key.id)
    return _make_principal(settings, f"key:{key.id}", key.scopes, partial(_is_valid_key, sha256), key.quota)


async def log_in(request: Request, key: str) -> str:
    """Begin a session of this key and return its cookie. Raises Refused (401)."""
    settings: Settings = request.app.state.settings
    principal = await _principal_of_key(request, settings, key)
    if principal is None:
        log.warning("request %s: refused a log-in from %s", request.state.request_id, _peer(request))
        raise _unauthorized("this API key is unknown, revoked or expired")
    database: Database = request.app.state.database
    return await database.write(
        _begin_session, keys.digest(key), request.cookies.get(COOKIE), _audit_entry(request, principal)
    )


def _begin_session(session: Session, key_sha256: str, replaces: str | None, entry: AuditEntry) -> str:
    cookie = sessions.begin(session, key_sha256, replaces=replaces)
    audit.record(session, entry)
    return cookie


def require_same_origin(request: Request) -> None:
    """CSRF protection: a request with a session cookie and an unsafe method must carry a same-origin `Sec-Fetch-Site`
    or `Origin`, which browsers set themselves. Raises Refused (403).
    """
    if request.method in SAFE_METHODS or request.headers.get("sec-fetch-site") == "same-origin":
        return
    origin = request.headers.get("origin")
    if origin is None or not is_origin_of(origin, request.headers.get("host", "")):
        detail = "a request with a session cookie must come from a page of this server; programs send an API key"
        raise Refused(403, "foreign_origin", detail)


def require(scope: str) -> Callable[[Principal], Awaitable[Principal]]:
    """A dependency that returns the principal of the request, or raises Refused (403) when it lacks `scope`."""

    async def allowed(principal: Annotated[Principal, Depends(authenticate)]) -> Principal:
        check_scope(principal, scope)
        return principal

    return allowed


def check_scope(principal: Principal, scope: str) -> None:
    """Raises Refused (403) when the principal lacks the scope."""
    if scope not in principal.scopes:
        raise Refused(403, "forbidden", f"this API key lacks the scope {scope}")


Reader = Annotated[Principal, Depends(require("jobs:read"))]
Submitter = Annotated[Principal, Depends(require("jobs:write"))]
DatasetWriter = Annotated[Principal, Depends(require("datasets:write"))]
Admin = Annotated[Principal, Depends(require("admin"))]
Audit = Annotated[AuditEntry, Depends(audit_entry)]
