"""Text that repeats is handled word by word: each cell still has its own word, whatever the column is held as."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atft.data.read.cells import factorize

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical])
@given(cells=st.lists(st.none() | TEXT))
def test_each_cell_has_its_word(dtype: type[pl.DataType], cells: list[str | None]) -> None:
    words, number = factorize(pl.Series(cells, dtype=pl.String).cast(dtype))
    assert words.gather(number).to_list() == cells
    assert words.to_list() == [*sorted({cell for cell in cells if cell is not None}, key=str.encode), None]


def test_numbers_are_words_too() -> None:
    words, number = factorize(pl.Series([10, 9, None, 10]))
    assert (words.to_list(), number.tolist()) == (["10", "9", None], [0, 1, 2, 0])
