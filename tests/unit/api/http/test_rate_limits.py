"""Rate limits of a principal: requests a minute, open streams, and how often the use of a key is recorded."""

from uuid import uuid4

import pytest

from api.http.errors import Refused
from api.http.rate_limits import WINDOW_SECONDS, RateLimits


class Clock:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


def test_requests_are_counted_by_principal_until_the_window_ends() -> None:
    clock = Clock(10 * WINDOW_SECONDS + 20)
    limits = RateLimits(clock)
    assert limits.count_request("a", 2)["RateLimit"] == '"requests";r=1;t=41'
    assert limits.count_request("a", 2)["RateLimit"] == '"requests";r=0;t=41'
    assert limits.count_request("b", 2)["RateLimit"] == '"requests";r=1;t=41'
    with pytest.raises(Refused) as refused:
        limits.count_request("a", 2)
    assert (refused.value.status_code, refused.value.code) == (429, "too_many_requests")
    assert (refused.value.headers or {})["Retry-After"] == "41"
    clock.seconds = 11 * WINDOW_SECONDS
    assert limits.count_request("a", 2)["RateLimit"] == f'"requests";r=1;t={WINDOW_SECONDS + 1}'


def test_a_closed_stream_makes_room_for_another() -> None:
    limits = RateLimits()
    with limits.open_stream("a"):
        limits.check_stream_limit("a", 2)
        limits.check_stream_limit("b", 1)
        with limits.open_stream("a"), pytest.raises(Refused) as refused:
            limits.check_stream_limit("a", 2)
        assert refused.value.code == "too_many_streams"
        limits.check_stream_limit("a", 2)


def test_a_stream_that_fails_is_no_longer_counted() -> None:
    limits = RateLimits()
    with pytest.raises(ConnectionError), limits.open_stream("a"):
        raise ConnectionError
    limits.check_stream_limit("a", 1)


def test_the_use_of_a_key_is_recorded_once_a_minute() -> None:
    clock, first, second = Clock(0.0), uuid4(), uuid4()
    limits = RateLimits(clock)
    assert [limits.should_record_use(key) for key in (first, first, second)] == [True, False, True]
    clock.seconds = WINDOW_SECONDS - 0.1
    assert not limits.should_record_use(first)
    clock.seconds = WINDOW_SECONDS
    assert limits.should_record_use(first)
