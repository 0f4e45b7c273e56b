"""Parsing of cells: distinct values, groups, numbers and booleans."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atft.data.read.cells import factorize, group_argsort, numbers_from_text
from atft.spec.data import TableFile

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical])
@given(cells=st.lists(st.none() | TEXT))
def test_factorize_returns_the_value_of_each_cell(dtype: type[pl.DataType], cells: list[str | None]) -> None:
    values, index = factorize(pl.Series(cells, dtype=pl.String).cast(dtype))
    assert values.gather(index).to_list() == cells
    assert values.to_list() == [*sorted({cell for cell in cells if cell is not None}, key=str.encode), None]


def test_factorize_turns_numbers_into_text() -> None:
    values, index = factorize(pl.Series([10, 9, None, 10]))
    assert (values.to_list(), index.tolist()) == (["10", "9", None], [0, 1, 2, 0])


def test_groups_are_ordered_and_stable() -> None:
    for count in (3, 1 << 16):  # 16-bit and wider keys
        assert group_argsort(np.array([2, 0, 1, 0, 2]), count).tolist() == [1, 3, 2, 0, 4]


def test_a_group_of_digits_does_not_begin_with_zero() -> None:
    text = pl.Series(["0.123", "012.345", "1.234", "0,5", "-12.345.678,5"])
    values, failed = numbers_from_text(text, TableFile(decimal=",", thousands="."))
    assert values.to_list() == [None, None, 1234.0, 0.5, -12345678.5]
    assert failed.to_list() == [True, True, False, False, False]


def test_text_is_a_number_or_missing_or_neither() -> None:
    values, failed = numbers_from_text(pl.Series(["1.5", " 2 ", "N/A", "-", None, "x", "1,5"]))
    assert values.to_list() == [1.5, 2.0, None, None, None, None, None]
    assert failed.to_list() == [False] * 5 + [True] * 2
