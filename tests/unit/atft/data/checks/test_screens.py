"""Look-ahead bias of a universe: yearly lists that fit the same year's traded values better than the year before's."""

import numpy as np

from atft.data.checks.screens import MIN_YEAR_DAYS, membership_overlap


def overlap(chosen_by: int, years: int = 2) -> tuple[float, float] | None:
    """10 stocks whose traded values are reversed each year; the list of the second year has the 3 largest of year
    `chosen_by`.
    """
    days = np.concatenate(
        [np.datetime64(f"{2020 + year}-01-01") + np.arange(MIN_YEAR_DAYS) for year in range(years)]
    ).astype("datetime64[D]")
    year_of_day = np.repeat(np.arange(years), MIN_YEAR_DAYS)
    day, code = np.repeat(np.arange(len(days)), 10), np.tile(np.arange(10), len(days))
    value = np.where(year_of_day[day] == 0, code, 9 - code).astype(np.float64)
    largest = [7, 8, 9] if chosen_by == 0 else [0, 1, 2]
    member = np.isin(code, largest)
    return membership_overlap(days, day, code, np.ones(len(day), np.bool_), member, value)


def test_a_list_made_at_its_beginning_fits_the_year_before() -> None:
    assert overlap(chosen_by=0) == (1.0, 0.0)


def test_a_list_made_with_later_data_fits_its_own_year() -> None:
    assert overlap(chosen_by=1) == (0.0, 1.0)


def test_one_year_cannot_be_compared() -> None:
    assert overlap(chosen_by=0, years=1) is None
