"""Statistics of one column, batch by batch: missing values, range, and whether it is market-wide."""

import numpy as np
import pyarrow as pa
import pytest

from atft.data.panel.survey import ColumnSurvey, to_floats
from atft.spec.data import TableFile


def surveyed(values: list[float], day: list[int], batch: int = 2) -> ColumnSurvey:
    number, days = np.array(day), max(day) + 1
    survey = ColumnSurvey(
        num_rows=len(values), daily=np.full(days, np.nan), known=np.zeros(days, np.int64), rows=np.bincount(number)
    )
    for start in range(0, len(values), batch):
        survey.add_batch(np.array(values[start : start + batch]), number[start : start + batch])
    return survey


def test_missing_infinite_and_range() -> None:
    survey = surveyed([1.0, np.nan, np.inf, 5.0], [0, 0, 1, 1])
    assert (survey.null_share, survey.infinite, survey.low, survey.high, survey.mean) == (0.5, True, 1.0, 5.0, 3.0)
    assert survey.useless_reason is None
    assert surveyed([2.0, 2.0], [0, 1]).useless_reason == "constant"
    assert surveyed([np.nan] * 3, [0, 0, 1]).useless_reason == "100% empty"
    assert surveyed([1.7e308, 1.7e308], [0, 1]).mean is None


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_a_column_with_one_value_a_day_is_market_wide(batch: int) -> None:
    day = [0, 0, 1, 1, 2, 2]
    assert surveyed([1.0, 1.0, 2.0, 2.0, 3.0, 3.0], day, batch).market_wide
    assert not surveyed([1.0, 2.0, 3.0], [0, 1, 2], batch).market_wide  # one stock: nothing to compare with
    assert not surveyed([1.0, 1.0, 2.0, np.nan, 3.0, np.nan], day, batch).market_wide  # too few of the days' rows
    nearly = surveyed([1.0, 1.0, 2.0, 2.5, 3.0, 3.0], day, batch)
    assert not nearly.market_wide
    assert nearly.nearly_market_wide == (1,)


def test_numbers_of_any_type_become_floats() -> None:
    for cells, dtype in (
        (pa.array([1, None, 3], pa.int16()), np.float32),
        (pa.array([1, None, 3], pa.int64()), np.float64),
        (pa.array(["1", "n/a", " 3 "]), np.float64),
        (pa.array([9.0, 1.0, None, 3.0]).slice(1), np.float64),
    ):
        found = to_floats(cells)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.array([1, np.nan, 3]))
    assert to_floats(pa.array(["1.234,5"]), TableFile(decimal=",", thousands=".")).tolist() == [1234.5]
