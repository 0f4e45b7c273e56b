"""Cursors of pages, references to datasets, and descriptions of queue positions."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from jobs.db.tables import Job
from jobs.errors import Invalid
from jobs.record.queries import _describe_position, read_cursor, split_ref, write_cursor


def test_cursor_round_trip() -> None:
    now, row_id = datetime.now(UTC), uuid4()
    assert read_cursor(write_cursor(now, row_id)) == (now, row_id)


@pytest.mark.parametrize("cursor", ["", "x", "é", "e30=", "W10=", "WzEsIDJd", "bnVsbA=="])
def test_a_bad_cursor_is_a_client_error(cursor: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_cursor(cursor)
    assert caught.value.pointer == "cursor"


@pytest.mark.parametrize(
    ("ref", "parts"),
    [
        ("us", ("us", None)),
        ("us@3", ("us", 3)),
        ("us@", ("us", -1)),
        ("us@x", ("us", -1)),
        ("us@-1", ("us", -1)),
        ("us@9999999999", ("us", -1)),
        ("us@1@2", ("us", -1)),
    ],
)
def test_a_reference_is_a_name_with_or_without_a_version(ref: str, parts: tuple[str, int | None]) -> None:
    assert split_ref(ref) == parts


def test_a_queue_position_is_described_in_text() -> None:
    now = datetime.now(UTC)
    job = Job(queue="gpu", not_before=None, message=None)
    assert _describe_position(job, 2, is_live=False, now=now) == (2, "0 live workers on queue gpu")
    assert _describe_position(job, 2, is_live=True, now=now) == (2, "2 ahead")
    assert _describe_position(job, 0, is_live=True, now=now) == (0, "next on queue gpu")
    job.not_before = now + timedelta(seconds=30)
    assert _describe_position(job, 0, is_live=True, now=now) == (0, "tries again in 30 s")
    job.message = "out of memory"
    assert _describe_position(job, 0, is_live=True, now=now) == (0, "out of memory; tries again in 30 s")
    job.not_before = now - timedelta(seconds=1)
    assert _describe_position(job, 0, is_live=True, now=now) == (0, "next on queue gpu")
