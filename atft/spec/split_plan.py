"""Split of a panel's trading days into training, validation and test days, shared by the API and the child.

Day numbers count the panel's trading days from 0. Day t needs t-window+1 … t as input and t+1 … t+1+max_horizon as
label, so that the usable days are window-1 … num_days-2-max_horizon. A gap of `embargo_days` unused days separates
training, validation and test days. The input window of an evaluation day may include training days, which are known by
then. The window of a training day after evaluation days never includes them, because the gap is at least the window.
"""

from dataclasses import dataclass
from itertools import combinations, pairwise

from atft.spec.base import refuse
from atft.spec.data import SplitSpec

MIN_TRAIN_DAYS = 2
MIN_TEST_DAYS = 2
MAX_DAYS = 1_000_000  # upper bound of the search for a long enough panel
DayRanges = tuple[range, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """Days of one training and its evaluation, as increasing, non-empty ranges of consecutive days."""

    train: DayRanges
    val: DayRanges
    test: DayRanges

    @property
    def purged(self) -> DayRanges:
        """The unused days between the fold's first and last used day."""
        used = sorted([*self.train, *self.val, *self.test], key=lambda days: days.start)
        return tuple(range(a.stop, b.start) for a, b in pairwise(used) if a.stop < b.start)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitPlan:
    """The folds of a split, earliest test days first."""

    folds: tuple[Fold, ...]


def count(ranges: DayRanges) -> int:
    return sum(map(len, ranges))


def plan_split(num_days: int, window: int, max_horizon: int, split: SplitSpec) -> SplitPlan:
    """Every fold of `split` on a panel of `num_days` days, earliest test days first.

    `walk_forward`: consecutive blocks of `test_days` days that end with the last usable day; before each block a gap,
    `val_days`, a gap, and the training days (`train_days`, or all).
    `purged_kfold`, `cpcv`: the usable days in `folds` blocks of equal size (the first ones a day longer where they do
    not divide); each block, or each choice of `test_folds` blocks, is tested once. Days at least a gap away from the
    test days are training days, except that the last `val_days` of their longest consecutive range (the latest of
    equals) are validation days, after another gap: early stopping never sees test days.
    Raises a validation error with the number of days needed; its pointer is absolute in a TrainSpec.
    """
    usable = range(window - 1, num_days - 1 - max_horizon)
    if len(usable) == 0:
        refuse(
            "/data/window",
            f"the panel has {num_days} days: too few for a window of {window} days and labels of {max_horizon} + 1",
        )
    has = f"the panel has {num_days} days, of which {len(usable)} have a window of {window} days behind and all labels"
    if split.kind == "walk_forward":
        return _walk_forward(usable, split, has)
    folds = _block_folds(usable, split)
    if folds is None:
        refuse(
            "/split/folds",
            f"{has} ahead; {split.kind} with {split.folds} folds, of which each split tests {split.test_folds}, "
            f"validation {split.val_days} and gaps of {split.embargo_days} needs {_min_usable_days(split)}: choose "
            "other folds, or a smaller val_days",
        )
    return SplitPlan(folds=folds)


def _walk_forward(usable: range, split: SplitSpec, has: str) -> SplitPlan:
    wanted = MIN_TRAIN_DAYS if split.train_days is None else split.train_days
    needed = wanted + split.val_days + split.folds * split.test_days + 2 * split.embargo_days
    if len(usable) < needed:
        field = "folds" if split.folds > 1 else "val_days" if split.train_days is None else "train_days"
        blocks = f"{split.folds} × " if split.folds > 1 else ""
        refuse(
            f"/split/{field}",
            f"{has} ahead; training {wanted} + validation {split.val_days} + test {blocks}{split.test_days} + two gaps "
            f"of {split.embargo_days} need {needed}",
        )
    folds = []
    for blocks_left in range(split.folds, 0, -1):
        test = range(usable.stop - blocks_left * split.test_days, usable.stop - (blocks_left - 1) * split.test_days)
        val = range(test.start - split.embargo_days - split.val_days, test.start - split.embargo_days)
        train_stop = val.start - split.embargo_days
        train_start = usable.start if split.train_days is None else train_stop - split.train_days
        folds.append(Fold(train=(range(train_start, train_stop),), val=(val,), test=(test,)))
    return SplitPlan(folds=tuple(folds))


def _block_folds(usable: range, split: SplitSpec) -> tuple[Fold, ...] | None:
    """Folds of k-fold or CPCV; None when a split has too few days to train and validate on."""
    size, longer = divmod(len(usable), split.folds)
    cuts = [usable.start + i * size + min(i, longer) for i in range(split.folds + 1)]
    folds = []
    for chosen in combinations(range(split.folds), split.test_folds):
        test = _merge_adjacent([range(cuts[i], cuts[i + 1]) for i in chosen])
        ranges = _ranges_away_from(usable, test, split.embargo_days)
        if size < MIN_TEST_DAYS or not ranges:
            return None
        longest = max(ranges, key=lambda days: (len(days), days.start))
        val = range(longest.stop - split.val_days, longest.stop)
        before = range(longest.start, val.start - split.embargo_days)
        train = tuple(part for days in ranges if len(part := before if days is longest else days))
        if val.start < longest.start or count(train) < MIN_TRAIN_DAYS:
            return None
        folds.append(Fold(train=train, val=(val,), test=test))
    return tuple(folds)


def _merge_adjacent(blocks: list[range]) -> DayRanges:
    """Blocks in order, adjacent ones merged."""
    found: list[range] = []
    for block in blocks:
        if found and found[-1].stop == block.start:
            found[-1] = range(found[-1].start, block.stop)
        else:
            found.append(block)
    return tuple(found)


def _ranges_away_from(usable: range, test: DayRanges, gap: int) -> list[range]:
    """The ranges of usable days that are at least `gap` days away from test days."""
    edges = [usable.start - gap, *(edge for days in test for edge in (days.start, days.stop)), usable.stop + gap]
    found = [range(a + gap, b - gap) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return [days for days in found if len(days)]


def _min_usable_days(split: SplitSpec) -> str:
    """Number of usable days that the split needs, for messages; bisection, since more days make no block smaller."""
    low, high = 0, MAX_DAYS
    if _block_folds(range(high), split) is None:
        return f"more than {high} days"
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _block_folds(range(middle), split) is None else (low, middle)
    return f"{high}"
