"""Which trading days a run trains, validates and tests on: arithmetic shared by the API's plan and the child."""

from dataclasses import dataclass

from atft.spec.base import refuse
from atft.spec.data import SplitSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitPlan:
    """Half-open ranges of day numbers; `purged` days lie between them and belong to nobody."""

    train: range
    val: range
    test: range

    @property
    def purged(self) -> list[int]:
        return [*range(self.train.stop, self.val.start), *range(self.val.stop, self.test.start)]


def walk_forward(num_days: int, window: int, max_horizon: int, split: SplitSpec) -> SplitPlan:
    """The last `test_days` days whose every label is known, a gap, `val_days`, a gap, then training days before them.

    Day t needs days t-window+1 … t as input and t+1+max_horizon as label. With `train_days` null, training takes all
    there are.
    Raises a validation error whose pointer is absolute in a TrainSpec.
    """
    first = window - 1
    stop = num_days - 1 - max_horizon
    if stop <= first:
        refuse(
            "/data/window",
            f"the panel has {num_days} days: too few for a window of {window} days and labels of {max_horizon} + 1",
        )
    test = range(stop - split.test_days, stop)
    val = range(test.start - split.embargo_days - split.val_days, test.start - split.embargo_days)
    train_stop = val.start - split.embargo_days
    train_start = first if split.train_days is None else train_stop - split.train_days
    if train_start < first or train_stop - train_start < 2:
        wanted = 2 if split.train_days is None else split.train_days
        needed = wanted + split.val_days + split.test_days + 2 * split.embargo_days
        refuse(
            "/split/train_days" if split.train_days is not None else "/split/val_days",
            f"the panel has {num_days} days, of which {stop - first} have a window of {window} days behind and all "
            f"labels ahead; training {wanted} + validation {split.val_days} + test {split.test_days} + two gaps of "
            f"{split.embargo_days} need {needed}",
        )
    return SplitPlan(train=range(train_start, train_stop), val=val, test=test)
