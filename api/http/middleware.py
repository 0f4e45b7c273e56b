"""Pure ASGI around every request: request id, body limits, HEAD, foreign origins, security headers, counts.

A body over the limit is refused by its Content-Length before a byte is read, or at the first byte past the limit.
"""

import logging
import re
import time
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.database import acting
from api.http.errors import Refused, problem
from api.http.prometheus import PrometheusMetrics
from jobs import logs

log = logging.getLogger("api")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_JOB: Final = re.compile(r"^/jobs/([0-9a-f-]{36})")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_DRAIN_SECONDS: Final = 10.0
_CSP: Final = (
    "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'; object-src 'none'"
)
_SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": _CSP,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}


class RequestMiddleware:
    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_upload_bytes: int, metrics: PrometheusMetrics) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max_upload_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        acting.set(None)
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        state = scope.setdefault("state", {})
        state["request_id"] = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        state["method"] = scope["method"]
        started = time.perf_counter()
        status, made = 500, ""

        async def answer(message: Message) -> None:
            nonlocal status, made
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                made = out.get("Location", "")
                out.setdefault("X-Request-ID", state["request_id"])
                for name, value in (_SECURITY | state.get("rate", {})).items():
                    out.setdefault(name, value)
            elif message["type"] == "http.response.body" and state["method"] == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        if scope["method"] == "HEAD":
            scope["method"] = "GET"
        with logs.log_context(request_id=state["request_id"]):
            try:
                await self._guarded(scope, headers, receive, answer)
            finally:
                seconds = time.perf_counter() - started
                self._metrics.request(state["method"], state.get("route", "none"), status, seconds)
                _tell(scope["path"], state["method"], status, seconds, made)

    async def _guarded(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if "\x00" in scope["path"] or b"%00" in scope.get("query_string", b""):
            await problem(request, 400, "bad_request", "the address must not contain NUL characters")(
                scope, receive, send
            )
            return
        if scope["method"] not in _SAFE and _foreign(headers):
            detail = "this request was sent by a page of another origin"
            await problem(request, 403, "foreign_origin", detail)(scope, receive, send)
            return
        limit = self._limit(scope, headers)
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > limit:
            await _refuse_body(request, limit, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise Refused(413, "body_too_large", _too_large(limit), headers={"Connection": "close"})
            return message

        await self._app(scope, counted, send)

    def _limit(self, scope: Scope, headers: Headers) -> int:
        upload = scope["path"] == "/datasets" and headers.get("content-type", "").lower().startswith(
            "multipart/form-data"
        )
        return self._max_upload_bytes if upload else self._max_body_bytes


def _tell(path: str, method: str, status: int, seconds: float, made: str) -> None:
    """What a request came to; reads only for those who look closely. A submit carries the id of the job it made."""
    fields: dict[str, object] = {"method": method, "path": path, "status": status, "seconds": round(seconds, 4)}
    if found := _JOB.search(made) or _JOB.search(path):
        fields["job_id"] = found[1]
    level = logging.DEBUG if method in _SAFE else logging.INFO
    log.log(level, "%s %s: %d", method, path, status, extra={"fields": fields})


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit:,} bytes"


async def _refuse_body(request: Request, limit: int, receive: Receive, send: Send) -> None:
    """Answer at once, then let the client finish sending into nothing for a bounded time.

    Closing at once would reset the connection, and the client would never read the answer.
    """
    response = problem(request, 413, "body_too_large", _too_large(limit), headers={"Connection": "close"})
    await send({"type": "http.response.start", "status": 413, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
    if request.headers.get("expect", "").lower() != "100-continue":
        with anyio.move_on_after(_DRAIN_SECONDS):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _foreign(headers: Headers) -> bool:
    """A browser says where a request comes from; other programs say nothing and need no such protection."""
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return True
    origin = headers.get("origin")
    return origin is not None and not is_origin_of(origin, headers.get("host", ""))


def is_origin_of(origin: str, host: str) -> bool:
    """Whether pages of this origin come from the server that is called `host`."""
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # not an address at all
        return False
