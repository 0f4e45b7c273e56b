"""Structured logging: one JSON object a line, with the request, job and attempt ids of its context, so that a search
for an id finds its lines in the logs of every process.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, TextIO
from uuid import UUID

_ids: Final[ContextVar[Mapping[str, str | int]]] = ContextVar("ids", default={})  # noqa: B039 - never written to


@contextmanager
def log_context(**ids: str | int | UUID) -> Iterator[None]:
    """Add these ids (`request_id`, `job_id`, `attempt`) to what this thread or task logs inside the block."""
    token = _ids.set(
        {**_ids.get(), **{name: str(value) if isinstance(value, UUID) else value for name, value in ids.items()}}
    )
    try:
        yield
    finally:
        _ids.reset(token)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON; `extra={"fields": {...}}` adds keys."""

    def format(self, record: logging.LogRecord) -> str:
        body: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_ids.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return json.dumps(body, ensure_ascii=False, default=str)


class StderrHandler(logging.StreamHandler[TextIO]):
    """A stream handler that looks up `sys.stderr` at each write, since it may have been replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure(level: str, *names: str) -> None:
    """Send the records of these loggers (`""` is the root) to standard error as JSON lines."""
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter())
    for name in names:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers = [handler]
