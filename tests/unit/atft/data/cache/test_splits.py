"""Splits in trading days: labels of different parts never overlap, gaps are complete, no day is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skfolio.model_selection import WalkForward

from atft.data.cache.reader import Cache
from atft.data.cache.splits import make_splits
from atft.data.schema import DataError
from atft.spec.data import DataSpec, SplitSpec


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 20), st.integers(2, 15), st.integers(2, 15), st.integers(6, 12), st.none() | st.integers(2, 20))
def test_pain_18_no_label_of_training_meets_evaluation(
    planted: Cache, window: int, val: int, test: int, gap: int, train: int | None
) -> None:
    """Label of day t spans t+1 … t+1+h: with 80 days and horizon 5 the last day with a label is 73."""
    data = DataSpec(window=window, horizons=(1, 5))
    spec = SplitSpec(train_days=train, val_days=val, test_days=test, embargo_days=gap)
    needed = (train or 2) + val + test + 2 * gap
    if needed > 80 - 6 - (window - 1):
        with pytest.raises(DataError, match="the panel has 80 days"):
            make_splits(planted, data, spec)
        return
    (split,) = make_splits(planted, data, spec)
    parts = [split.train, split.val, split.test]
    assert len(split.val) == val
    assert len(split.test) == test
    assert train is None or len(split.train) == train
    assert split.train[0] >= window - 1
    assert split.test[-1] + 1 + 5 == 79
    for earlier, later in ((split.train, split.val), (split.val, split.test)):
        assert later[0] - earlier[-1] - 1 == gap  # trading days between
        assert earlier[-1] + 1 + 5 < later[0] + 1  # label intervals do not meet
    assert all((np.diff(p) == 1).all() for p in parts)
    covered = np.concatenate([*parts, split.purged])
    assert len(set(covered.tolist())) == len(covered)
    assert sorted(covered.tolist()) == list(range(int(split.train[0]), int(split.test[-1]) + 1))


def test_gap_shorter_than_the_label_is_refused(planted: Cache) -> None:
    with pytest.raises(DataError, match="must be at least 6"):
        make_splits(planted, DataSpec(window=5, horizons=(1, 5)), SplitSpec(val_days=10, test_days=10, embargo_days=5))


def test_window_longer_than_the_panel_is_refused(planted: Cache) -> None:
    with pytest.raises(DataError, match="too few for a window of 90 days"):
        make_splits(planted, DataSpec(window=90, horizons=(1, 5)), SplitSpec(val_days=5, test_days=5, embargo_days=6))


def test_agrees_with_skfolio_where_the_conventions_meet(planted: Cache) -> None:
    """skfolio's WalkForward with a purge between train and test, on the days that have a window and a label: its last
    split is our train and validation when the test part is laid aside.
    """
    (split,) = make_splits(
        planted,
        DataSpec(window=5, horizons=(1, 5)),
        SplitSpec(train_days=20, val_days=10, test_days=10, embargo_days=6),
    )
    usable = np.arange(int(split.train[0]), int(split.val[-1]) + 1)
    *_, (train, test) = WalkForward(train_size=20, test_size=10, purged_size=6).split(np.zeros((len(usable), 1)))
    assert usable[train].tolist() == split.train.tolist()
    assert usable[test].tolist() == split.val.tolist()
