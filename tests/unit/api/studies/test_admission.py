"""Pure parts of the checks of a study: merged batch sizes, selection bias, pointers into the space."""

from typing import Any

import pytest

from api.http.errors import Refused, invalid
from api.studies.admission import _point_into_space, merge_batch_sizes, selection_bias_warnings
from atft.spec.data import SplitSpec
from atft.spec.job import TrainSpec
from atft.spec.study import HpoSpec

RATE = {"kind": "float", "low": 1e-4, "high": 1e-2}


def study(batch_size: dict[str, Any] | None = None, **fields: Any) -> HpoSpec:
    space = {"optimizer.lr": RATE} | ({"trainer.batch_size": batch_size} if batch_size else {})
    return HpoSpec.model_validate({"base": {"dataset": "d"}, "space": space, **fields})


def test_batch_sizes_of_the_same_number_of_days_become_one_choice() -> None:
    spec = study({"kind": "categorical", "choices": [1000, 1010, 2000]}, enqueue=[{"trainer.batch_size": 1010}])
    merged, warnings = merge_batch_sizes(spec, stocks_per_day=500)
    assert merged.model_dump()["space"]["trainer.batch_size"]["choices"] == (1000, 2000)
    assert merged.model_dump()["enqueue"] == ({"trainer.batch_size": 1000},)
    [warning] = warnings
    assert warning == "trainer.batch_size: 1010 resolves to the same run as 1000: merged"


@pytest.mark.parametrize(
    "batch_size",
    [{"kind": "categorical", "choices": [100, 200]}, {"kind": "int", "low": 400, "high": 700}],
)
def test_batch_sizes_without_effect_are_refused(batch_size: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        merge_batch_sizes(study(batch_size), stocks_per_day=500)
    assert (caught.value.status_code, caught.value.code) == (422, "inert_parameter")
    assert caught.value.errors[0].pointer == "/space/trainer.batch_size"


@pytest.mark.parametrize("batch_size", [None, {"kind": "int", "low": 400, "high": 7000}])
def test_other_spaces_stay_as_they_are(batch_size: dict[str, Any] | None) -> None:
    spec = study(batch_size)
    assert merge_batch_sizes(spec, stocks_per_day=500) == (spec, [])


def test_another_split_or_several_folds_warn_of_selection_bias() -> None:
    spec = TrainSpec(dataset="d")
    assert selection_bias_warnings(spec, spec.split) == []
    [warning] = selection_bias_warnings(spec, SplitSpec(val_days=30))
    assert "may be among the test days" in warning
    folds = SplitSpec(kind="purged_kfold", folds=3, embargo_days=60)
    [warning] = selection_bias_warnings(TrainSpec(dataset="d", split=folds), folds)
    assert "validation days are test days of another" in warning


def test_a_refused_extreme_points_to_its_key_in_the_space() -> None:
    space = study().space
    [inside] = _point_into_space(invalid("/optimizer/lr", "too high"), space).errors
    [outside] = _point_into_space(invalid("/data/window", "too long"), space).errors
    assert (inside.pointer, outside.pointer) == ("/space/optimizer.lr", "/space")
