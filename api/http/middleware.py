"""ASGI middleware of every request: request id, body limits, HEAD, cross-origin check, security headers, metrics, log.

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
_SECURITY_HEADERS: Final = {
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
    """Pure ASGI, not BaseHTTPMiddleware: streams pass through unbuffered."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_upload_bytes: int, metrics: PrometheusMetrics) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max_upload_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        client_id = headers.get("x-request-id", "")
        state = scope.setdefault("state", {})
        state["request_id"] = client_id if _REQUEST_ID.fullmatch(client_id) else uuid4().hex
        state["method"] = scope["method"]
        started = time.perf_counter()
        status, location = 500, ""

        async def send_with_headers(message: Message) -> None:
            nonlocal status, location
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                location = out.get("Location", "")
                out.setdefault("X-Request-ID", state["request_id"])
                for name, value in (_SECURITY_HEADERS | state.get("rate", {})).items():
                    out.setdefault(name, value)
            elif message["type"] == "http.response.body" and state["method"] == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        if scope["method"] == "HEAD":
            scope["method"] = "GET"
        with logs.log_context(request_id=state["request_id"]):
            try:
                await self._check_and_call(scope, headers, receive, send_with_headers)
            finally:
                seconds = time.perf_counter() - started
                self._metrics.observe_request(state["method"], state.get("route", "none"), status, seconds)
                _log_request(scope["path"], state["method"], status, seconds, location)

    async def _check_and_call(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if "\x00" in scope["path"] or b"%00" in scope.get("query_string", b""):
            await problem(request, 400, "bad_request", "the address must not contain NUL characters")(
                scope, receive, send
            )
            return
        if scope["method"] not in _SAFE and _is_cross_origin(headers):
            detail = "this request was sent by a page of another origin"
            await problem(request, 403, "foreign_origin", detail)(scope, receive, send)
            return
        limit = self._limit(scope, headers)
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > limit:
            await _reject_body(request, limit, receive, send)
            return
        seen = 0

        async def receive_limited() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise Refused(413, "body_too_large", _too_large(limit), headers={"Connection": "close"})
            return message

        await self._app(scope, receive_limited, send)

    def _limit(self, scope: Scope, headers: Headers) -> int:
        upload = scope["path"] == "/datasets" and headers.get("content-type", "").lower().startswith(
            "multipart/form-data"
        )
        return self._max_upload_bytes if upload else self._max_body_bytes


def _log_request(path: str, method: str, status: int, seconds: float, location: str) -> None:
    """Log one request: safe methods at DEBUG, others at INFO. The job id is that of the path or the Location header."""
    fields: dict[str, object] = {"method": method, "path": path, "status": status, "seconds": round(seconds, 4)}
    if found := _JOB.search(location) or _JOB.search(path):
        fields["job_id"] = found[1]
    level = logging.DEBUG if method in _SAFE else logging.INFO
    log.log(level, "%s %s: %d", method, path, status, extra={"fields": fields})


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit:,} bytes"


async def _reject_body(request: Request, limit: int, receive: Receive, send: Send) -> None:
    """Send 413, then read and discard the body for a bounded time.

    Closing at once would reset the connection, and the client would never read the response.
    """
    response = problem(request, 413, "body_too_large", _too_large(limit), headers={"Connection": "close"})
    await send({"type": "http.response.start", "status": 413, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
    if request.headers.get("expect", "").lower() != "100-continue":
        with anyio.move_on_after(_DRAIN_SECONDS):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_cross_origin(headers: Headers) -> bool:
    """Whether a browser sent the request from a page of another origin; other programs send neither header."""
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return True
    origin = headers.get("origin")
    return origin is not None and not is_origin_of(origin, headers.get("host", ""))


def is_origin_of(origin: str, host: str) -> bool:
    """Whether the `Origin` header names the host of the `Host` header."""
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # not a URL
        return False
