"""The days of a job's folds, from its plan or from its evidence, and their plot."""

from datetime import date, timedelta

import plotly.graph_objects
import pytest

from api.training.split import observed_folds, planned_folds, split_figure
from atft.evidence.models import FoldDays
from atft.spec.data import SplitSpec
from atft.spec.split_plan import plan_split

DAYS = [date(2020, 1, 1) + timedelta(days=n * 7 // 5) for n in range(200)]
KFOLD = SplitSpec(kind="purged_kfold", folds=3, val_days=20, embargo_days=10)


def folds_of(split: SplitSpec) -> list[FoldDays]:
    return planned_folds(plan_split(len(DAYS), 10, 5, split), DAYS)


def test_a_plan_has_the_first_and_last_day_of_every_range() -> None:
    [one] = folds_of(SplitSpec(val_days=30, test_days=30, embargo_days=6))
    assert one.model_dump(mode="json")["test"] == [{"first": str(DAYS[164]), "last": str(DAYS[193]), "num_days": 30}]
    assert [part.num_days for part in one.purged] == [6, 6]
    middle = folds_of(KFOLD)[1]
    assert [len(middle.train), len(middle.val), len(middle.test)] == [2, 1, 1]


@pytest.mark.parametrize("split", [SplitSpec(val_days=30, test_days=30, embargo_days=6), KFOLD])
def test_the_observed_split_equals_the_planned_one(split: SplitSpec) -> None:
    folds = folds_of(split)
    if len(folds) > 1:
        data: dict[str, object] = {"folds": [fold.model_dump(mode="json") for fold in folds]}
    else:
        numbers = {str(day): n for n, day in enumerate(DAYS)}
        body = folds[0].model_dump(mode="json")
        data = {
            f"{role}_days": [
                str(day) for part in parts for day in DAYS[numbers[part["first"]] : numbers[part["last"]] + 1]
            ]
            for role, parts in body.items()
        }
    assert observed_folds(data) == folds  # type: ignore[arg-type]
    assert observed_folds({"fingerprint": "f"}) is None


def test_the_plot_is_a_plotly_figure_with_every_range() -> None:
    folds = folds_of(KFOLD)
    drawn = split_figure(folds)
    plotly.graph_objects.Figure(drawn)  # refuses what Plotly does not know
    bars = {trace["name"]: trace for trace in drawn["data"]}
    assert list(bars) == ["training", "validation", "test", "gap"]
    assert bars["test"]["y"] == ["fold 1", "fold 2", "fold 3"]
    first = folds[0].test[0]
    assert bars["test"]["base"][0] == str(first.first)
    assert bars["test"]["x"][0] == ((first.last - first.first).days + 1) * 86_400_000
    assert sum(map(len, (trace["x"] for trace in bars.values()))) == sum(
        len(parts) for fold in folds for parts in (fold.train, fold.val, fold.test, fold.purged)
    )
