"""Cursors say where a page ended and nothing else."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from jobs.errors import Invalid
from jobs.record.queries import read_cursor, write_cursor


def test_cursor_round_trip() -> None:
    now, row_id = datetime.now(UTC), uuid4()
    assert read_cursor(write_cursor(now, row_id)) == (now, row_id)


@pytest.mark.parametrize("cursor", ["", "x", "é", "e30=", "W10=", "WzEsIDJd", "bnVsbA=="])
def test_bad_cursor_is_the_clients_error(cursor: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_cursor(cursor)
    assert caught.value.pointer == "cursor"
