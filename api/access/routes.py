"""Routes of API keys, browser sessions and the audit log."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from sqlalchemy.orm import Session

from api.access.schemas import AuditPage, Keys, MadeKey, NewKey, ShownKey, audit_view, key_view
from api.http import examples
from api.http.auth import COOKIE, Admin, Audit, log_in, require_same_origin
from api.http.deps import MAX_INTEGER, Limit, ServiceDep, problems, require_json
from api.http.errors import invalid
from jobs.access import audit, keys, sessions
from jobs.errors import Invalid

router = APIRouter(tags=["access"])
_EXAMPLES = {"robot": {"summary": "A program that submits and reads, for a year", "value": examples.NEW_KEY}}
_SHOWN = {"key": {"summary": "A key as it was shown when it was made", "value": {"key": "atft_0123abcd_…"}}}


@router.post(
    "/keys",
    status_code=201,
    dependencies=[Depends(require_json)],
    summary="Create an API key",
    response_description="The key; it is shown only in this response.",
    responses=problems(413, 415),
)
async def create_key(
    new: Annotated[NewKey, Body(openapi_examples=_EXAMPLES)], service: ServiceDep, _: Admin, entry: Audit
) -> MadeKey:
    """Create a key with the given scopes; `admin` includes all others. Only the SHA-256 of the key is stored."""
    if new.expires_at is not None and new.expires_at <= datetime.now(UTC):
        raise invalid("/expires_at", "this time is over: the key would never be good")
    quota = {name: limit for name, limit in new.quota.model_dump().items() if limit is not None}

    def make(session: Session) -> MadeKey:
        row, token = keys.create(
            session, name=new.name, scopes=list(new.scopes), expires_at=new.expires_at, quota=quota
        )
        audit.record(session, entry.with_target(f"/keys/{row.id}"))
        return MadeKey(**key_view(row).model_dump(), key=token)

    return await service.database.write(make)


@router.get("/keys", summary="List API keys", responses=problems())
async def list_keys(service: ServiceDep, _: Admin) -> Keys:
    """Every key, newest first, with its scopes and when it was last used, never the key itself."""
    return Keys(items=[key_view(row) for row in await service.database.read(keys.list_keys)])


@router.delete(
    "/keys/{key_id}", status_code=204, response_class=Response, summary="Revoke an API key", responses=problems(404)
)
async def revoke_key(
    key_id: Annotated[UUID, Path(description="the key's id", examples=[examples.KEY["id"]])],
    service: ServiceDep,
    _: Admin,
    entry: Audit,
) -> Response:
    """Refuse the key and close the sessions that were opened with it, at once. Revoking a revoked key is no error."""

    def revoke(session: Session) -> None:
        keys.revoke(session, key_id)
        audit.record(session, entry)

    await service.database.write(revoke)
    return Response(status_code=204)


@router.post(
    "/session",
    status_code=204,
    response_class=Response,
    dependencies=[Depends(require_json)],
    summary="Log in",
    response_description="`Set-Cookie`: a session of twelve hours (HttpOnly, SameSite=Strict).",
    responses=problems(413, 415),
)
async def begin_session(request: Request, body: Annotated[ShownKey, Body(openapi_examples=_SHOWN)]) -> Response:
    """Exchange a key for a session cookie with the scopes of the key; it expires with the key.

    With a cookie, calls that change something must also come from a page of this server (Origin or Sec-Fetch-Site).
    """
    cookie = await log_in(request, body.key.get_secret_value())
    response = Response(status_code=204)
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=int(sessions.LIFETIME.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.delete("/session", status_code=204, response_class=Response, summary="Log out", responses=problems())
async def end_session(request: Request, service: ServiceDep) -> Response:
    """End the session of the request's cookie. Without a cookie nothing is changed."""
    if cookie := request.cookies.get(COOKIE):
        require_same_origin(request)
        await service.database.write(sessions.end, cookie)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return response


def _parse_cursor(cursor: str) -> int:
    if not cursor.isdecimal() or int(cursor) > MAX_INTEGER:
        raise Invalid("this cursor was not given by this service: start again without one", "cursor")
    return int(cursor)


@router.get("/audit", summary="Audit log", responses=problems())
async def list_audit(
    service: ServiceDep,
    response: Response,
    _: Admin,
    who: Annotated[str | None, Query(max_length=200, description="only entries of this principal")] = None,
    cursor: Annotated[str | None, Query(max_length=18, description="`next_cursor` of the previous page")] = None,
    limit: Limit = 50,
) -> AuditPage:
    """Every change that was made by a request or a command, newest first. The log is append-only: the database refuses
    to change or delete its entries.
    """
    before = None if cursor is None else _parse_cursor(cursor)
    rows, next_id = await service.database.read(audit.page, principal=who, before=before, limit=limit)
    next_cursor = None if next_id is None else str(next_id)
    if next_cursor is not None:
        response.headers["Link"] = f'</audit?limit={limit}&cursor={next_cursor}>; rel="next"'
    return AuditPage(items=[audit_view(row) for row in rows], next_cursor=next_cursor)
