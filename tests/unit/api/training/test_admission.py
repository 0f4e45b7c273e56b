"""Pure parts of the checks of a training job: its queue, warnings, step size, and pointers of refusals."""

import pytest

from api.http.errors import invalid
from api.training.admission import (
    choose_queue,
    days_per_step,
    graph_warnings,
    median_stocks_per_day,
    prefix_pointers,
    unwatched_queue_warnings,
)
from atft.spec.data import SplitSpec
from atft.spec.job import TrainSpec
from atft.spec.split_plan import plan_split
from jobs.db.tables import Dataset


@pytest.mark.parametrize(
    ("requested", "device", "live_queues", "queue"),
    [
        ("auto", "auto", {"cpu", "gpu"}, "gpu"),
        ("auto", "auto", {"cpu"}, "cpu"),
        ("auto", "auto", set(), "cpu"),
        ("auto", "cuda", {"cpu"}, "gpu"),
        ("auto", "cpu", {"cpu", "gpu"}, "cpu"),
        ("gpu", "cpu", {"cpu"}, "gpu"),
    ],
)
def test_auto_is_the_gpu_queue_if_a_worker_watches_it(
    requested: str, device: str, live_queues: set[str], queue: str
) -> None:
    assert choose_queue(requested, device, live_queues) == queue


def test_a_queue_without_a_worker_gives_a_warning() -> None:
    assert unwatched_queue_warnings("cpu", {"cpu"}) == []
    [warning] = unwatched_queue_warnings("gpu", {"cpu"})
    assert "no live worker watches queue gpu" in warning


def test_the_pointer_of_a_nested_spec_gets_its_prefix() -> None:
    refusal = prefix_pointers(invalid("/data/features", "no such feature", "missing_features"), "/base")
    assert (refusal.status_code, refusal.code, refusal.detail) == (422, "missing_features", "no such feature")
    assert [error.pointer for error in refusal.errors] == ["/base/data/features"]


@pytest.mark.parametrize(
    ("batch_size", "stocks", "days"), [(4096, 500, 8), (4096, 3000, 1), (10, 500, 1), (750, 500, 2)]
)
def test_a_step_has_whole_days_and_at_least_one(batch_size: int, stocks: int, days: int) -> None:
    spec = TrainSpec.model_validate({"dataset": "d", "trainer": {"batch_size": batch_size}})
    assert days_per_step(spec, stocks) == days


def test_a_graph_that_cannot_have_edges_gives_a_warning() -> None:
    body = {"dataset": "d", "graph": {"shrinkage": 1.0}}
    split = plan_split(500, 20, 5, SplitSpec(val_days=100, test_days=100, embargo_days=20))
    for profile, use_gat, number in (({}, True, 1), ({"num_sectors": 3}, True, 0), ({}, False, 0)):
        spec = TrainSpec.model_validate(body | {"model": {"use_gat": use_gat}})
        warnings = graph_warnings(spec, Dataset(profile=profile), split)
        assert len(warnings) == number
        assert all("no edges" in one and "without neighbours" in one for one in warnings)
    late = TrainSpec.model_validate({"dataset": "d", "graph": {"refresh_days": 250}})
    assert graph_warnings(late, Dataset(profile={}), split) == []
    split = plan_split(500, 20, 5, SplitSpec(val_days=150, test_days=150, embargo_days=20))
    assert "number 250, comes after the last training day, 154" in graph_warnings(late, Dataset(profile={}), split)[0]


def test_stocks_per_day_are_the_median_or_else_the_mean() -> None:
    manifest = {"num_rows": 1030, "num_days": 100}
    assert median_stocks_per_day(Dataset(manifest=manifest, profile={"names_per_day": {"median": 12.0}})) == 12
    assert median_stocks_per_day(Dataset(manifest=manifest, profile={})) == 10
