"""A short run of `make fuzz`: a few cases of every operation."""

import pytest

from jobs.access import keys
from jobs.db.session import transaction
from jobs.settings import Settings
from tests.fuzz import fuzz
from tests.integration.api.application import Sessions


@pytest.mark.parametrize("keyed", [False, True], ids=["anonymous", "keyed"])
def test_random_requests_to_every_operation_cause_no_server_error(
    settings: Settings, sessions: Sessions, keyed: bool
) -> None:
    key = None
    if keyed:
        with transaction(sessions) as session:
            _, key = keys.create(session, name="fuzz", scopes=["admin"])
    outcome = fuzz(settings, key, examples=1, phases="fuzzing")
    assert outcome.code == 0
    assert outcome.cases > 25
