"""A pretraining's spec, and the checks of `init_from`."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from atft.spec.data import SplitSpec
from atft.spec.init_from import check_encoder_shape, check_no_lookahead, same_heads, source_fold
from atft.spec.job import RunSpec, TrainSpec
from atft.spec.pretrain import PretrainSpec
from atft.spec.split_plan import plan_split

SOURCE = "019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21"
DATA = {"window": 5, "horizons": [1, 3]}
SPLIT = {"val_days": 10, "test_days": 10, "embargo_days": 6}
NUM_DAYS = 120


def later(split: dict[str, Any] = SPLIT, **changes: Any) -> TrainSpec:
    body = {"dataset": "d", "data": DATA, "split": split, "model": {"fan_top_k": 2}, "init_from": SOURCE}
    return TrainSpec.model_validate(body | changes)


def earlier(split: dict[str, Any] = SPLIT, **changes: Any) -> PretrainSpec:
    return PretrainSpec.model_validate(
        {"dataset": "d", "data": DATA, "split": split, "model": {"fan_top_k": 2}} | changes
    )


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"trainer": {"objective": "val/rank_ic"}}, None),
        ({"mask_ratio": 0.0}, None),
        ({"temperature": 0.0}, None),
        ({"loss": {}}, None),
        ({"model": {"fan_top_k": 2, "quantiles": [0.1, 0.9]}}, "/model/quantiles"),
        (
            {"trainer": {"max_epochs": 1, "phases": [{"name": "a", "epochs": 1, "loss": {}}]}},
            "/objective",  # within its trainer: val/loss cannot be compared between losses
        ),
        ({"split": SPLIT | {"embargo_days": 3}}, "/split/embargo_days"),
    ],
)
def test_an_impossible_pretraining_is_refused(change: dict[str, Any], pointer: str | None) -> None:
    with pytest.raises(ValidationError) as found:
        earlier(**change)
    if pointer is not None:
        assert found.value.errors()[0]["ctx"]["pointer"] == pointer


def test_an_invalid_id_is_refused() -> None:
    with pytest.raises(ValidationError, match="init_from"):
        later(init_from="the last one")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"fan_top_k": 3}}, "fan_top_k was 3"),
        ({"model": {"fan_top_k": 2, "hidden_size": 64}}, "hidden_size"),
        ({"model": {"fan_top_k": 2, "use_gat": False}}, "use_gat"),
        ({"data": DATA | {"window": 6}}, "window"),
        ({"split": SPLIT | {"folds": 3}}, "3 folds"),
    ],
)
def test_another_network_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PydanticCustomError, match=message) as found:
        check_encoder_shape(later(), earlier(**change))
    assert (found.value.context or {})["pointer"] == "/init_from"


def test_settings_outside_the_encoder_may_differ() -> None:
    spec = later(
        model={"fan_top_k": 2, "dropout": 0.4, "gat_dropout": 0.0, "quantiles": [0.1, 0.9]}, loss={"base": "pinball"}
    )
    check_encoder_shape(spec, earlier())
    check_encoder_shape(
        later(model={"use_fan": False, "fan_top_k": 3}), earlier(model={"use_fan": False, "fan_top_k": 2})
    )


def test_heads_are_loaded_when_horizons_and_quantiles_are_equal() -> None:
    assert same_heads(later(), later())
    assert not same_heads(later(), earlier())
    assert not same_heads(later(), later(data={"window": 5, "horizons": [1, 2]}))


LEAKS: dict[str, tuple[TrainSpec, list[RunSpec], str | None]] = {
    "the same split": (later(), [earlier()], None),
    "less of the past": (later(), [earlier(SPLIT | {"val_days": 30})], None),
    "training days among validation days": (later(), [earlier(SPLIT | {"val_days": 2})], "validation day"),
    "training days in the gap": (later(), [earlier(SPLIT | {"val_days": 9})], "validation day"),
    "the earlier run's labels reach further": (
        later(),
        [earlier(SPLIT | {"val_days": 12}, data=DATA | {"horizons": [1, 5]})],
        None,
    ),
    "a longer gap was requested": (later(SPLIT | {"embargo_days": 9}), [earlier()], "validation day"),
    "the epoch was chosen by test days": (
        later(SPLIT | {"test_days": 20}),
        [earlier(SPLIT | {"val_days": 20})],
        "test day",
    ),
    "an earlier fold is tested before": (later(SPLIT | {"folds": 2}), [earlier()], "fold 1"),
    "fold by fold": (later(SPLIT | {"folds": 2}), [earlier(SPLIT | {"folds": 2})], None),
    "the source's own source saw them": (later(), [earlier(), earlier(SPLIT | {"val_days": 2})], "validation day"),
    "k-fold, each its own": (
        later({"kind": "purged_kfold", "folds": 4, "val_days": 5, "embargo_days": 6}),
        [earlier({"kind": "purged_kfold", "folds": 4, "val_days": 5, "embargo_days": 6})],
        None,
    ),
    "k-fold from one past": (
        later({"kind": "purged_kfold", "folds": 4, "val_days": 5, "embargo_days": 6}),
        [earlier()],
        "fold 1",
    ),
}


@pytest.mark.parametrize("case", list(LEAKS))
def test_pain_09_weights_trained_on_evaluation_days_are_refused(case: str) -> None:
    spec, ancestors, message = LEAKS[case]
    if message is None:
        check_no_lookahead(spec, NUM_DAYS, ancestors)
        return
    with pytest.raises(PydanticCustomError, match=message):
        check_no_lookahead(spec, NUM_DAYS, ancestors)


SPLITS = st.builds(
    SplitSpec,
    val_days=st.integers(2, 25),
    test_days=st.integers(2, 25),
    embargo_days=st.integers(6, 12),
    folds=st.integers(1, 2),
)


@settings(max_examples=30, deadline=None)
@given(SPLITS, SPLITS)
def test_accepted_weights_never_saw_an_evaluation_day_or_a_later_one(one: SplitSpec, two: SplitSpec) -> None:
    spec, source = later(two.model_dump()), earlier(one.model_dump())
    try:
        check_encoder_shape(spec, source)
        check_no_lookahead(spec, NUM_DAYS, [source])
    except PydanticCustomError:
        return
    before, after = (plan_split(NUM_DAYS, 5, 3, split).folds for split in (one, two))
    for number, fold in enumerate(after):
        seen = before[source_fold(source, number)]
        assert max(seen.train[-1]) + max(one.embargo_days, two.embargo_days) < min(fold.val[0])
        assert max(seen.val[-1]) + max(one.embargo_days, two.embargo_days) < min(fold.test[0])
