"""The calendar grid of a source: halts, listings, returns and membership."""

from concurrent.futures import Future
from datetime import date

import numpy as np
import polars as pl
import pytest

from atft.data.panel.calendar_grid import build_grid, rows_by_day, scatter
from atft.data.panel.source import Source
from atft.data.read.tables import table_from_frame
from atft.data.schema import Roles

DAYS = [date(2024, 1, day) for day in (2, 3, 4, 5)]


def source(rows: list[tuple[int, str, float | None]], universe: pl.DataFrame | None = None) -> Source:
    """A price source of (day number, code, close) rows, sorted by (code, day)."""
    frame = pl.DataFrame(
        {
            "@date": [DAYS[day] for day, _, _ in rows],
            "@code": pl.Series([code for _, code, _ in rows]).cast(pl.Categorical),
            "@close": pl.Series([close for _, _, close in rows], dtype=pl.Float64),
        }
    )
    roles = Roles(
        kind="prices",
        columns={"date": "@date", "code": "@code", "close": "@close"},
        targets={},
        return_1d=None,
        requested_features=None,
        unassigned=(),
    )
    return Source(
        frame=frame,
        table=table_from_frame(frame, "x"),
        order=None,
        days=frame["@date"].unique().sort().to_numpy().astype("datetime64[D]"),
        kind="prices",
        roles=roles,
        extra={},
        sha256_future=Future(),
        universe=universe,
    )


def test_a_halt_repeats_the_last_close_and_a_listing_begins_and_ends_with_a_close() -> None:
    grid = build_grid(
        source(
            [
                (0, "A", 10.0),
                (2, "A", 11.0),
                (3, "A", 12.0),
                (1, "B", None),
                (2, "B", 20.0),
                (3, "B", None),
                (0, "C", 5.0),
                (1, "C", 6.0),
                (0, "D", None),
            ]
        )
    )
    assert grid.codes == ("A", "B", "C")  # D never has a close
    assert grid.code_index.tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert grid.day_index.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert grid.valid.tolist() == [True, False, True, True, True, True, True]
    assert grid.frame["close"].to_list() == [10.0, 10.0, 11.0, 12.0, 20.0, 5.0, 6.0]
    np.testing.assert_allclose(grid.returns, [np.nan, 0.0, 0.1, 1 / 11, np.nan, np.nan, 0.2])
    assert grid.row_of_source.tolist() == [0, 2, 3, -1, 4, -1, 5, 6, -1]
    assert grid.day_offsets.tolist() == [0, 2, 4, 6, 7]
    assert grid.day_rows.tolist() == [0, 5, 1, 6, 2, 4, 3]


def test_a_dated_list_holds_until_the_next_one() -> None:
    universe = pl.DataFrame({"date": [DAYS[1], DAYS[3], DAYS[3]], "code": ["A", "B", "Z"]})
    rows = [(day, code, 1.0 + day) for code in "AB" for day in range(4)]
    prices = source(rows, universe)  # type: ignore[arg-type]
    grid = build_grid(prices)
    assert grid.in_universe.tolist() == [False, True, True, False, False, False, False, True]
    unknown, without_list = grid.warnings
    assert "'Z'" in unknown
    assert "1 trading days have no list" in without_list
    assert prices.warnings == []  # another thread adds to those: only the build joins both, in one order


def test_scatter_and_rows_by_day() -> None:
    out = scatter(pl.Series([1.0, None, 3.0]), np.array([2, 0, -1]), 3)
    np.testing.assert_array_equal(out, [np.nan, np.nan, 1.0])
    offsets, rows = rows_by_day(np.array([1, 0, 1, 3], np.int32), 4)
    assert (offsets.tolist(), rows.tolist()) == ([0, 1, 3, 3, 4], [1, 0, 2, 3])


@pytest.mark.parametrize("days", [1, 4])
def test_a_day_without_any_close_is_no_trading_day(days: int) -> None:
    rows = [(day, code, 1.0 if day < days else None) for code in "AB" for day in range(4)]
    assert len(build_grid(source(rows)).days) == days  # type: ignore[arg-type]
