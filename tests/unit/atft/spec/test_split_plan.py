"""Every kind of split: labels do not overlap, gaps are complete, test days are right, and errors say what is needed."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import PydanticCustomError
from skfolio.model_selection import CombinatorialPurgedCV, WalkForward
from sklearn.model_selection import KFold

from atft.spec.data import MAX_SPLITS, SplitSpec
from atft.spec.job import TrainSpec
from atft.spec.split_plan import DayRanges, Fold, SplitPlan, count, plan_split

MAX_HORIZON = 5


def days_of(stretches: DayRanges) -> list[int]:
    return [day for days in stretches for day in days]


def check(fold: Fold, num_days: int, window: int, gap: int) -> None:
    """Assert the properties of every fold of every kind of split."""
    train, val, test = days_of(fold.train), days_of(fold.val), days_of(fold.test)
    assert train
    assert val
    assert test
    for days in (train, val, test):
        assert days == sorted(set(days))
        assert days[0] >= window - 1
        assert days[-1] + 1 + MAX_HORIZON <= num_days - 1
    labels = {
        name: {t + s for t in days for s in range(1, MAX_HORIZON + 2)}
        for name, days in zip("avt", (train, val, test), strict=True)
    }
    assert not labels["a"] & labels["v"]
    assert not labels["a"] & labels["t"]
    assert not labels["v"] & labels["t"]
    owners = sorted([(day, "a") for day in train] + [(day, "v") for day in val] + [(day, "t") for day in test])
    for (day, owner), (later, other) in pairwise(owners):
        assert owner == other or later - day - 1 >= gap
    everything = sorted([*train, *val, *test, *days_of(fold.purged)])
    assert everything == list(range(everything[0], everything[-1] + 1))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(40, 300), st.integers(2, 12), st.integers(2, 20), st.integers(2, 20), st.integers(6, 15),
    st.none() | st.integers(2, 40), st.integers(1, 5),
)  # fmt: skip
def test_walk_forward_folds_are_in_order_and_separated_by_gaps(
    num_days: int, window: int, val: int, test: int, gap: int, train: int | None, folds: int
) -> None:
    spec = SplitSpec(train_days=train, val_days=val, test_days=test, embargo_days=gap, folds=folds)
    usable = num_days - 1 - MAX_HORIZON - (window - 1)
    needed = (train or 2) + val + folds * test + 2 * gap
    if usable < needed:
        with pytest.raises(PydanticCustomError, match=f"need {needed}"):
            plan_split(num_days, window, MAX_HORIZON, spec)
        return
    plan = plan_split(num_days, window, MAX_HORIZON, spec)
    assert len(plan.folds) == folds
    for fold in plan.folds:
        check(fold, num_days, window, gap)
        assert (count(fold.val), count(fold.test)) == (val, test)
        assert count(fold.train) == train or train is None
        assert fold.train[0].start == window - 1 or train is not None
        assert fold.train[0].stop < fold.val[0].start < fold.test[0].start
    tested = [day for fold in plan.folds for day in days_of(fold.test)]
    assert tested == list(range(num_days - 1 - MAX_HORIZON - folds * test, num_days - 1 - MAX_HORIZON))


def blocks(num_days: int, window: int, spec: SplitSpec) -> SplitPlan:
    try:
        return plan_split(num_days, window, MAX_HORIZON, spec)
    except PydanticCustomError:
        assume(False)
        raise


@settings(max_examples=80, deadline=None)
@given(st.integers(60, 400), st.integers(2, 12), st.integers(2, 20), st.integers(12, 20), st.integers(2, 8))
def test_kfold_tests_every_usable_day_once(num_days: int, window: int, val: int, gap: int, folds: int) -> None:
    spec = SplitSpec(kind="purged_kfold", val_days=val, embargo_days=gap, folds=folds)
    plan = blocks(num_days, window, spec)
    assert len(plan.folds) == folds
    for fold in plan.folds:
        check(fold, num_days, window, gap)
        assert count(fold.val) == val
    tested = [day for fold in plan.folds for day in days_of(fold.test)]
    assert tested == list(range(window - 1, num_days - 1 - MAX_HORIZON))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(80, 500), st.integers(2, 12), st.integers(2, 20), st.integers(12, 20),
    st.tuples(st.integers(3, 7), st.integers(1, 6)).filter(lambda pair: pair[0] > pair[1]),
)  # fmt: skip
def test_cpcv_tests_every_block_in_its_share_of_the_splits(
    num_days: int, window: int, val: int, gap: int, chosen: tuple[int, int]
) -> None:
    folds, test_folds = chosen
    spec = SplitSpec(kind="cpcv", val_days=val, embargo_days=gap, folds=folds, test_folds=test_folds)
    plan = blocks(num_days, window, spec)
    assert len(plan.folds) == spec.num_splits == math.comb(folds, test_folds)
    for fold in plan.folds:
        check(fold, num_days, window, gap)
    times = np.zeros(num_days, int)
    for fold in plan.folds:
        times[days_of(fold.test)] += 1
    assert (times[window - 1 : num_days - 1 - MAX_HORIZON] == math.comb(folds - 1, test_folds - 1)).all()
    assert len({fold.test for fold in plan.folds}) == len(plan.folds)


@pytest.mark.parametrize(("train", "folds"), [(20, 3), (None, 4)])
def test_walk_forward_agrees_with_skfolio(train: int | None, folds: int) -> None:
    """skfolio's WalkForward has one evaluation block a fold: our training with the validation days, purge between."""
    spec = SplitSpec(train_days=train, val_days=10, test_days=10, embargo_days=6, folds=folds)
    plan = plan_split(120, 5, MAX_HORIZON, spec)
    first, last = plan.folds[0].train[0].start, plan.folds[-1].val[-1].stop
    size = plan.folds[0].train[0].stop - first
    oracle = WalkForward(train_size=size, test_size=10, purged_size=6, expand_train=train is None)
    found = [(a + first, b + first) for a, b in oracle.split(np.zeros((last - first, 1)))]
    assert len(found) == folds
    for fold, (train_days, val_days) in zip(plan.folds, found, strict=True):
        assert days_of(fold.train) == train_days.tolist()
        assert days_of(fold.val) == val_days.tolist()


def test_cpcv_agrees_with_skfolio_when_the_blocks_are_of_one_size() -> None:
    """skfolio knows no validation days: its training days are ours, our validation days and the gap before them."""
    spec = SplitSpec(kind="cpcv", val_days=8, embargo_days=7, folds=6, test_folds=2)
    plan = plan_split(6 * 30 + 4 + 6, 5, MAX_HORIZON, spec)
    oracle = CombinatorialPurgedCV(n_folds=6, n_test_folds=2, purged_size=7)
    for fold, (train, tests) in zip(plan.folds, oracle.split(np.zeros((180, 1))), strict=True):
        assert days_of(fold.test) == sorted((np.concatenate(tests) + 4).tolist())
        val = days_of(fold.val)
        assert sorted([*days_of(fold.train), *range(val[0] - 7, val[0]), *val]) == (train + 4).tolist()


def test_kfold_has_the_blocks_of_sklearn() -> None:
    plan = plan_split(211, 5, MAX_HORIZON, SplitSpec(kind="purged_kfold", val_days=8, embargo_days=7, folds=4))
    found = [test + 4 for _, test in KFold(4).split(np.zeros((201, 1)))]
    assert [days_of(fold.test) for fold in plan.folds] == [days.tolist() for days in found]


def test_validation_days_are_the_end_of_the_longest_stretch() -> None:
    plan = plan_split(100 + 10, 5, MAX_HORIZON, SplitSpec(kind="purged_kfold", val_days=8, embargo_days=7, folds=4))
    assert [fold.val for fold in plan.folds] == [
        (range(96, 104),),
        (range(96, 104),),
        (range(39, 47),),
        (range(64, 72),),
    ]
    assert plan.folds[2].train == (range(4, 32), range(86, 104))


@pytest.mark.parametrize("kind", [{"kind": "purged_kfold", "folds": 5}, {"kind": "cpcv", "folds": 6, "test_folds": 2}])
def test_too_few_days_names_the_number_needed_and_that_many_suffice(kind: dict[str, object]) -> None:
    spec = SplitSpec.model_validate({"val_days": 20, "embargo_days": 12, **kind})
    with pytest.raises(PydanticCustomError) as caught:
        plan_split(60, 10, MAX_HORIZON, spec)
    context = caught.value.context or {}
    assert context["pointer"] == "/split/folds"
    needed = int(caught.value.message().split(" needs ")[1].split(":")[0])
    assert plan_split(needed + 9 + 6, 10, MAX_HORIZON, spec).folds
    with pytest.raises(PydanticCustomError):
        plan_split(needed + 9 + 5, 10, MAX_HORIZON, spec)


@pytest.mark.parametrize(
    ("split", "pointer"),
    [
        ({"test_folds": 2}, "/split/test_folds"),
        ({"kind": "purged_kfold", "embargo_days": 60}, "/split/folds"),
        ({"kind": "purged_kfold", "folds": 5, "embargo_days": 60, "train_days": 100}, "/split/train_days"),
        ({"kind": "purged_kfold", "folds": 5, "embargo_days": 60, "test_days": 100}, "/split/test_days"),
        ({"kind": "purged_kfold", "folds": 5, "embargo_days": 60, "test_folds": 2}, "/split/test_folds"),
        ({"kind": "purged_kfold", "folds": 5, "embargo_days": 59}, "/split/embargo_days"),
        ({"kind": "cpcv", "folds": 4, "test_folds": 4, "embargo_days": 60}, "/split/test_folds"),
        ({"kind": "cpcv", "folds": 12, "test_folds": 4, "embargo_days": 60}, "/split/test_folds"),
    ],
)  # fmt: skip
def test_an_impossible_split_is_refused_at_its_field(split: dict[str, object], pointer: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainSpec.model_validate({"dataset": "prices", "split": split})
    (error,) = caught.value.errors()
    assert "/".join(["", *map(str, error["loc"])]) + error.get("ctx", {}).get("pointer", "") == pointer


def test_the_largest_number_of_splits_is_bounded() -> None:
    assert SplitSpec(kind="cpcv", folds=10, test_folds=3).num_splits == 120 <= MAX_SPLITS
    with pytest.raises(ValidationError, match=f"at most {MAX_SPLITS}"):
        SplitSpec(kind="cpcv", folds=10, test_folds=5)
