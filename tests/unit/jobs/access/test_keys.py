"""The form and checksum of API keys."""

import pytest

from jobs.access.keys import _checksum, is_well_formed

GOOD = "atft_0123abcd_" + "0f" * 20


def test_a_mistyped_key_fails_the_checksum() -> None:
    token = GOOD + _checksum(GOOD)
    assert is_well_formed(token)
    assert not is_well_formed(token.replace("0f0f", "0f1f", 1))


@pytest.mark.parametrize(
    "token", ["", "atft_", GOOD, "bearer " + GOOD, GOOD.upper() + _checksum(GOOD), GOOD + _checksum(GOOD) + "\n"]
)
def test_malformed_keys_are_refused(token: str) -> None:
    assert not is_well_formed(token)
