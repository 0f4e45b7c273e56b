"""The Range header of a download: a malformed one is dropped, one outside the file is refused with 416."""

import pytest
from starlette.requests import Request

from api.http.errors import Refused
from api.jobs.results import _check_range


def after_check(value: str, size: int) -> str | None:
    """The Range header that is left for the file response."""
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": [(b"range", value.encode())]})
    _check_range(request, size)
    return Request(request.scope).headers.get("range")


@pytest.mark.parametrize("value", ["bytes=0-9", "bytes=9-", "bytes=-3", "bytes=0-0,5-6", "bytes=0-999"])
def test_a_range_in_the_file_is_kept(value: str) -> None:
    assert after_check(value, 10) == value


@pytest.mark.parametrize("value", ["bytes=a-b", "bytes=-", "lines=1-2", "bytes=5-2", f"bytes={'9' * 19}-"])
def test_a_malformed_range_is_dropped(value: str) -> None:
    assert after_check(value, 10) is None


@pytest.mark.parametrize("value", ["bytes=10-", "bytes=10-12", "bytes=0-1,10-11"])
def test_a_range_outside_the_file_is_refused(value: str) -> None:
    with pytest.raises(Refused) as refused:
        after_check(value, 10)
    assert refused.value.status_code == 416
    assert (refused.value.headers or {})["Content-Range"] == "bytes */10"
