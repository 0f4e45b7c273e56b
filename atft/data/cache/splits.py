"""Splits of a cache's trading days into training, validation and test."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic_core import PydanticCustomError

from atft.data.cache.reader import Cache
from atft.data.schema import DataError
from atft.spec.data import DataSpec, SplitSpec
from atft.spec.split_plan import DayRanges, plan_split


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Day numbers of one fold, each increasing; `purged` days lie in the gaps and are not used."""

    train: npt.NDArray[np.int64]
    val: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    purged: npt.NDArray[np.int64]
    embargo_days: int


def make_splits(cache: Cache, data: DataSpec, split: SplitSpec) -> tuple[Split, ...]:
    """The folds of a cache; their gap, the same for all horizons, is at least h_max + 1 days. Raises DataError."""
    needed = max(data.horizons) + 1
    if split.embargo_days < needed:
        raise DataError(
            f"embargo_days {split.embargo_days} is shorter than the longest label: it must be at least {needed}"
        )
    try:
        plan = plan_split(len(cache.days), data.window, max(data.horizons), split)
    except PydanticCustomError as error:
        raise DataError(error.message()) from error
    return tuple(
        Split(
            train=_numbers(fold.train),
            val=_numbers(fold.val),
            test=_numbers(fold.test),
            purged=_numbers(fold.purged),
            embargo_days=split.embargo_days,
        )
        for fold in plan.folds
    )


def _numbers(stretches: DayRanges) -> npt.NDArray[np.int64]:
    return np.array([day for days in stretches for day in days], dtype=np.int64)


def consecutive_runs(days: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Increasing day numbers, split into runs of consecutive days."""
    return np.split(days, np.flatnonzero(np.diff(days) != 1) + 1)
