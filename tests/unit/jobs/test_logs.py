"""Log lines: one JSON object each, with the ids of their context."""

import json
import logging

import pytest

from jobs import logs


def test_a_line_has_the_ids_of_its_context(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "of-a-test")
    log = logging.getLogger("of-a-test")
    log.propagate = False
    with logs.log_context(job_id="j"), logs.log_context(attempt=2):
        log.info("two\nlines %s", "é", extra={"fields": {"seconds": 0.5}})
    log.debug("too quiet")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("failed")
    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info", "logger": "of-a-test", "message": "two\nlines é", "job_id": "j", "attempt": 2, "seconds": 0.5,
    }  # fmt: skip
    assert "job_id" not in second
    assert "ValueError: why" in second["exception"]
