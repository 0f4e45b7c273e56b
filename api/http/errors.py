"""Exceptions as problem+json responses (RFC 9457): one table of status and code. No response has a stack trace.

`errors[].pointer` is an RFC 6901 pointer into the body; errors of query, path or headers name their `parameter`.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from api.http.schemas import FieldError, Problem
from jobs import errors as domain

log = logging.getLogger("api")

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 2
QUOTA_RETRY_AFTER_SECONDS: Final = 30  # a guess: by then a job may have ended

# The first match wins: subclasses stand before their bases.
STATUS: Final[tuple[tuple[type[domain.JobsError], int, str], ...]] = (
    (domain.JobNotFound, 404, "job_not_found"),
    (domain.DatasetNotFound, 404, "dataset_not_found"),
    (domain.ArtifactNotFound, 404, "artifact_not_found"),
    (domain.KeyNotFound, 404, "key_not_found"),
    (domain.NotFound, 404, "not_found"),
    (domain.IllegalTransition, 409, "illegal_move"),
    (domain.DatasetBusy, 409, "dataset_busy"),
    (domain.Conflict, 409, "conflict"),
    (domain.PreconditionFailed, 412, "precondition_failed"),
    (domain.IdempotencyMismatch, 422, "idempotency_mismatch"),
    (domain.Invalid, 422, "invalid_request"),
    (domain.QuotaExceeded, 429, "quota_exceeded"),
    (domain.StaleAttempt, 409, "stale"),
)
_CODES: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    422: "invalid_request",
    500: "internal",
    503: "unavailable",
}


class Refused(HTTPException):
    """An HTTP error with a problem code. FastAPI lets only an HTTPException pass unchanged out of body parsing."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.code = code
        self.errors = list(errors)


class Unavailable(Refused):
    """503: Postgres is unreachable or timed out. A commit whose reply was lost may have happened."""

    def __init__(
        self,
        detail: str = "the database cannot be reached at the moment; "
        "try again, with the same Idempotency-Key if there was one: what was done before is not done twice",
    ) -> None:
        super().__init__(503, "database_unavailable", detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def invalid(pointer: str, message: str, code: str = "invalid_request") -> Refused:
    """The error (422) for one field of the body."""
    return Refused(422, code, message, errors=[FieldError(detail=message, code=code, pointer=pointer)])


def request_id(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))


def problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem+json response."""
    body = Problem(
        type=f"urn:atft:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=request.url.path,
        code=code,
        request_id=request_id(request),
        errors=list(errors),
    )
    return JSONResponse(
        body.model_dump(mode="json"),
        status,
        media_type=MEDIA_TYPE,
        headers={**(headers or {}), "X-Request-ID": request_id(request), "Cache-Control": "no-store"},
    )


def _pointer_token(part: object) -> str:
    return "/" + str(part).replace("~", "~0").replace("/", "~1")


def field_errors(errors: Iterable[Mapping[str, Any]], *, body_prefix: bool) -> list[FieldError]:
    """Pydantic's errors as FieldErrors. A cross-field rule adds `ctx.pointer`, relative to the model that raised it."""
    found = []
    for error in errors:
        where = [*error["loc"]]
        source = where.pop(0) if body_prefix and where else "body"
        pointer = "".join(_pointer_token(part) for part in where) + str((error.get("ctx") or {}).get("pointer", ""))
        detail, code = str(error["msg"]).removeprefix("Value error, "), str(error["type"])
        if code == "extra_forbidden":
            detail, code = f"unknown field {where[-1]!r}" if where else "unknown field", "unknown_field"
        if source == "body":
            found.append(FieldError(detail=detail, code=code, pointer=pointer))
        else:
            found.append(
                FieldError(detail=detail, code=code, parameter=".".join(map(str, where)), location=str(source))
            )
    return found


def invalid_fields(errors: Sequence[FieldError]) -> Refused:
    """The error (422) for one or more fields; its detail is that of the first."""
    first = errors[0]
    where = first.pointer or first.parameter or "the body"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Refused(422, "invalid_request", f"{where}: {first.detail}{more}", errors=errors)


def from_pydantic(error: ValidationError) -> Refused:
    """The error (422) for a body that was validated outside FastAPI (multipart, cross-checks)."""
    return invalid_fields(field_errors(error.errors(include_url=False, include_input=False), body_prefix=False))


async def _on_validation(request: Request, error: Exception) -> JSONResponse:
    raw = cast(RequestValidationError, error).errors()
    if raw and raw[0]["type"] == "json_invalid":
        position = raw[0]["loc"][-1]
        return problem(
            request, 400, "malformed_json", f"the body is not JSON: {raw[0]['ctx']['error']} at character {position}"
        )
    found = field_errors(raw, body_prefix=True)
    if any(error.location == "path" for error in found):
        return problem(request, 404, "not_found", f"there is nothing at {request.url.path}: {found[0].detail}")
    refused = invalid_fields(found)
    return problem(request, refused.status_code, refused.code, refused.detail, refused.errors)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, Refused):
        return problem(request, error.status_code, error.code, error.detail, error.errors, error.headers)
    error = cast(HTTPException, error)
    detail, headers = error.detail, dict(error.headers or {})
    if error.status_code == 404:
        detail = f"there is nothing at {request.url.path}; /docs lists what is there"
    if error.status_code == 405:
        allowed = request.app.state.allowed_methods(request.scope["path"])
        headers["Allow"] = ", ".join(allowed)
        detail = (
            f"{request.scope['state'].get('method', request.method)} is not allowed here; use {' or '.join(allowed)}"
        )
    return problem(request, error.status_code, _CODES.get(error.status_code, "http_error"), detail, headers=headers)


async def _on_domain(request: Request, error: Exception) -> JSONResponse:
    status, code = next((status, code) for kind, status, code in STATUS if isinstance(error, kind))
    detail = str(error) or (type(error).__doc__ or "").strip()
    errors = []
    if isinstance(error, domain.Invalid) and error.pointer:
        in_body = error.pointer.startswith("/")
        errors = [
            FieldError(
                detail=detail,
                code=code,
                pointer=error.pointer if in_body else None,
                parameter=None if in_body else error.pointer,
            )
        ]
    headers = {"Retry-After": str(QUOTA_RETRY_AFTER_SECONDS)} if status == 429 else {}
    return problem(request, status, code, detail, errors, headers)


async def _on_unhandled(request: Request, error: Exception) -> JSONResponse:
    log.error("request %s %s %r failed", request_id(request), request.method, request.url.path, exc_info=error)
    return problem(request, 500, "internal", "an error of the service, which its log explains under this request_id")


def install(app: FastAPI) -> None:
    """Register the exception handlers."""
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(domain.JobsError, _on_domain)
    app.add_exception_handler(Exception, _on_unhandled)
