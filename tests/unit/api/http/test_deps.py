"""What routes read from headers, and the error responses that they document."""

import pytest

from api.http.deps import expected_version, problems


@pytest.mark.parametrize(
    ("if_match", "version"),
    [(None, None), ("*", None), (" * ", None), ('"7"', 7), ("7", 7), ('"7", "8"', -1), ('W/"7"', -1), ('"x"', -1),
     ("9" * 19, -1), ("", -1)],
)  # fmt: skip
def test_if_match_names_a_version_or_none_or_a_foreign_tag(if_match: str | None, version: int | None) -> None:
    assert expected_version(if_match) == version


def test_documented_problems_are_those_of_every_route_and_the_given_ones() -> None:
    documented = problems(404)
    assert list(documented) == [400, 401, 403, 404, 422, 429, 503]
    example = documented[404]["content"]["application/problem+json"]["example"]
    assert (example["status"], example["code"], example["errors"]) == (404, "job_not_found", [])
