"""Which trading days a run of this cache trains, validates and tests on."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic_core import PydanticCustomError

from atft.data.cache import Cache
from atft.data.schema import DataError
from atft.spec.data import DataSpec, SplitSpec
from atft.spec.days import walk_forward


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Day numbers of the cache, each increasing; `purged` days lie in the gaps and belong to nobody."""

    train: npt.NDArray[np.int64]
    val: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    purged: npt.NDArray[np.int64]
    embargo_days: int


def make_split(cache: Cache, data: DataSpec, split: SplitSpec) -> Split:
    """The walk-forward split in trading days: one for all horizons, its gap at least h_max + 1. Raises DataError."""
    needed = max(data.horizons) + 1
    if split.embargo_days < needed:
        raise DataError(
            f"embargo_days {split.embargo_days} is shorter than the longest label: it must be at least {needed}"
        )
    try:
        plan = walk_forward(len(cache.days), data.window, max(data.horizons), split)
    except PydanticCustomError as error:
        raise DataError(error.message()) from error

    def numbers(days: range | list[int]) -> npt.NDArray[np.int64]:
        return np.fromiter(days, dtype=np.int64)

    return Split(
        train=numbers(plan.train),
        val=numbers(plan.val),
        test=numbers(plan.test),
        purged=numbers(plan.purged),
        embargo_days=split.embargo_days,
    )
