"""Pure parts of the checks of a prediction: its days, and warnings of days that are not out of sample."""

from datetime import date, timedelta

import pytest

from api.http.errors import Refused
from api.predictions.admission import _day_warnings, _days_in_range, _select
from atft.spec.job import TrainSpec
from atft.spec.prediction import PredictSpec
from jobs.db.tables import Job

DAYS = [date(2020, 1, 1) + timedelta(days=n) for n in range(100)]
TRAIN = TrainSpec.model_validate({"dataset": "d", "data": {"window": 10, "horizons": [1, 3]}})


def spec(first: date, last: date) -> PredictSpec:
    return PredictSpec(model="m", dataset="d", from_day=first, to_day=last)


def model(first: int, last: int) -> Job:
    """A job of one fold, whose last validation day is number `last`."""
    stretch = {"first": str(DAYS[first]), "last": str(DAYS[last]), "num_days": last - first + 1}
    fold = {"train": [stretch], "val": [stretch], "test": [], "purged": []}
    return Job(evidence={"data": {"folds": [fold]}})


def test_the_range_of_days_includes_both_ends() -> None:
    assert _days_in_range(DAYS, spec(DAYS[3], DAYS[5])) == DAYS[3:6]
    assert _days_in_range(DAYS, spec(date(2019, 1, 1), date(2030, 1, 1))) == DAYS


def test_a_range_without_trading_days_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        _days_in_range(DAYS, spec(date(2021, 1, 1), date(2021, 2, 1)))
    assert (caught.value.code, caught.value.errors[0].pointer) == ("no_days", "/from_day")
    assert "its days are 2020-01-01 to 2020-04-09" in caught.value.detail


def test_days_without_a_whole_window_are_counted() -> None:
    [warning, _] = _day_warnings(model(10, 50), TRAIN, None, DAYS, DAYS[7:20])
    assert warning.startswith("the first 2 of the days")


def test_days_up_to_the_end_of_the_last_label_are_not_out_of_sample() -> None:
    # the last label, of day 50, ends at day 50 + 1 + 3
    [warning] = _day_warnings(model(10, 50), TRAIN, None, DAYS, DAYS[51:80])
    assert warning.startswith("the first 4 of the days are no later than the labels")
    assert _day_warnings(model(10, 50), TRAIN, None, DAYS, DAYS[55:80]) == []


def test_only_entries_by_feature_are_selected() -> None:
    assert _select({"a": "x", "b": "y"}, ("a",)) == {"a": "x"}
    assert _select({"features": "rank"}, ("a",)) == {"features": "rank"}
