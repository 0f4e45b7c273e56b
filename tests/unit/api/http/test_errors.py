"""Error responses: JSON pointers, and one HTTP status for each domain error."""

import pytest
from pydantic import ValidationError

from api.http.errors import STATUS, field_errors, from_pydantic
from atft.spec.job import TrainSpec
from jobs import errors as domain


def refused(body: dict[str, object]) -> list[tuple[str | None, str]]:
    with pytest.raises(ValidationError) as error:
        TrainSpec.model_validate(body)
    return [(field.pointer, field.code) for field in from_pydantic(error.value).errors]


def test_pain_12_unknown_field_is_named_by_its_pointer() -> None:
    assert refused({"dataset": "d", "sheduler": {}}) == [("/sheduler", "unknown_field")]
    assert refused({"dataset": "d", "scheduler": {"type": "cosine"}}) == [("/scheduler/type", "unknown_field")]


def test_field_out_of_range_is_named_by_its_pointer() -> None:
    assert refused({"dataset": "d", "model": {"gat_layers": 0}}) == [("/model/gat_layers", "greater_than_equal")]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"split": {"embargo_days": 3}}, "/split/embargo_days"),  # the rule stands in TrainSpec
        ({"model": {"hidden_size": 30, "attention_heads": 8}}, "/model/hidden_size"),  # and this one in ModelSpec
        ({"trainer": {"stop_rules": [{"metric": "val/ic"}]}}, "/trainer/stop_rules/0/below"),
    ],
)
def test_cross_field_rule_points_at_the_field_to_change(body: dict[str, object], pointer: str) -> None:
    assert refused({"dataset": "d"} | body)[0][0] == pointer


def test_pointer_is_escaped() -> None:
    [error] = field_errors([{"loc": ("body", "tags", "a/b~c"), "msg": "bad", "type": "x"}], body_prefix=True)
    assert error.pointer == "/tags/a~1b~0c"


def test_query_error_names_its_parameter() -> None:
    [error] = field_errors([{"loc": ("query", "limit"), "msg": "bad", "type": "x"}], body_prefix=True)
    assert (error.pointer, error.parameter, error.location) == (None, "limit", "query")


def all_errors(base: type[domain.JobsError]) -> list[type[domain.JobsError]]:
    return [base, *(below for kind in base.__subclasses__() for below in all_errors(kind))]


def test_every_domain_error_has_a_status_before_its_base() -> None:
    kinds = [kind for kind, _, _ in STATUS]
    abstract = {domain.JobsError}
    for kind in set(all_errors(domain.JobsError)) - abstract:
        assert any(issubclass(kind, known) for known in kinds), kind
    for number, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) for later in kinds[number + 1 :]), kind
