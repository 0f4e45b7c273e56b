"""The identity of a submit with an Idempotency-Key, and texts that Postgres cannot store."""

from typing import Any

import pytest

from api.http.errors import Refused
from api.jobs.submission import reject_nul, request_identity
from jobs.states import JobKind


def test_the_identity_ignores_the_order_of_keys_only() -> None:
    first = request_identity("key", JobKind.TRAIN, {"spec": {"a": 1, "b": [1, 2]}})
    assert first is not None
    assert first == request_identity("key", JobKind.TRAIN, {"spec": {"b": [1, 2], "a": 1}})
    others = [
        request_identity("other", JobKind.TRAIN, {"spec": {"a": 1, "b": [1, 2]}}),
        request_identity("key", JobKind.HPO, {"spec": {"a": 1, "b": [1, 2]}}),
        request_identity("key", JobKind.TRAIN, {"spec": {"a": 1, "b": [2, 1]}}),
    ]
    assert first not in others
    assert len({first, *others}) == 4


def test_without_a_key_a_request_has_no_identity() -> None:
    assert request_identity(None, JobKind.TRAIN, {}) is None


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ("a\x00", ""),
        ({"name": "a\x00"}, "/name"),
        ({"tags": {"a/b~c": ["x", "\x00"]}}, "/tags/a~1b~0c/1"),
        ({"tags": {"\x00": "x"}}, "/tags"),
    ],
)
def test_a_nul_character_is_rejected_at_its_pointer(value: Any, pointer: str) -> None:
    with pytest.raises(Refused) as refused:
        reject_nul(value)
    assert [error.pointer for error in refused.value.errors] == [pointer]


def test_other_values_are_accepted() -> None:
    reject_nul({"a": ["x", 1, None, {"b": "\n"}]})
