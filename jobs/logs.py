"""What our programs log: one JSON object a line, with the ids of what it is about, so that a request, a job or one of
its attempts can be followed through every process by a search for its id.
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
    """Whatever this thread or task logs inside carries these: `request_id`, `job_id`, `attempt`."""
    token = _ids.set(
        {**_ids.get(), **{name: str(value) if isinstance(value, UUID) else value for name, value in ids.items()}}
    )
    try:
        yield
    finally:
        _ids.reset(token)


class JsonFormatter(logging.Formatter):
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
    """Looks for the stream when it writes: it may have been replaced since."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure(level: str, *names: str) -> None:
    """Send what these loggers say (`""` is the root) to the standard error output, as lines."""
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter())
    for name in names:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers = [handler]
