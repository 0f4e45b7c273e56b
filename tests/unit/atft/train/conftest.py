"""A planted panel small enough for a run of one second, and fixtures that train on it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from atft.data.builder.run import build
from atft.data.cache.reader import Cache
from atft.events import Event, Failed, Finished, Metrics, Stopped
from atft.spec.data import DatasetSpec
from atft.spec.job import TrainSpec
from atft.train.loop import train
from tests.unit.atft.train.evidence_check import evidence_differences

DATASET: dict[str, Any] = {
    "name": "tiny",
    "planted": {"num_codes": 24, "num_days": 120, "num_features": 5, "signal": 0.3, "seed": 1},
    "horizons": [1, 5],
}
SPEC: dict[str, Any] = {
    "dataset": "tiny",
    "data": {"window": 6, "horizons": [1, 5], "min_names": 5},
    "split": {"train_days": 24, "val_days": 12, "test_days": 12, "embargo_days": 7},
    "model": {"hidden_size": 8, "gat_layers": 1, "gat_heads": 2, "attention_heads": 2, "fan_top_k": 2},
    "graph": {"correlation_window": 20, "half_life": 10, "neighbours": 3, "refresh_days": 10},
    "optimizer": {"name": "adamw", "lr": 0.003},
    "trainer": {"max_epochs": 2, "batch_size": 100},
    "resources": {"device": "cpu", "threads": 1},
    "baselines": False,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("planted") / "cache"
    build(DatasetSpec.model_validate(DATASET), folder, lambda _: None, lambda: False)
    return Cache.open(folder)


def changed(**changes: object) -> TrainSpec:
    """SPEC with changes by dotted name: `changed(**{"optimizer.lr": 0.1})`."""
    body = json.loads(json.dumps(SPEC))
    for name, value in changes.items():
        *path, last = name.split(".")
        node = body
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return TrainSpec.model_validate(body)


class Result:
    """A run's final event, all its events and its output folder."""

    def __init__(self, out: Path, last: Finished | Stopped | Failed, events: list[Event]) -> None:
        self.out = out
        self.last = last
        self.events = events

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def rows(self) -> dict[tuple[str | None, str, int], float | None]:
        """(source, name, step) → value, without what depends on the clock."""
        return {
            (event.source, name, event.step): value
            for event in self.of(Metrics)
            for name, value in event.values.items()
            if not name.startswith(("time/", "system/", "time.", "system."))
        }

    @property
    def evidence(self) -> dict[str, Any]:
        from atft.events import Evidence

        return dict(self.of(Evidence)[-1].body)


Runner = Callable[..., Result]


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., TrainSpec]:
    return changed


@pytest.fixture
def run(cache: Cache, tmp_path: Path) -> Runner:
    def go(
        spec: TrainSpec | None = None,
        name: str = "run",
        *,
        stop: Callable[[], bool] = lambda: False,
        resume: Path | None = None,
        on: Cache = cache,
        **options: Any,
    ) -> Result:
        events: list[Event] = []
        last = train(spec or changed(), on, tmp_path / name, events.append, stop, resume, **options)
        result = Result(tmp_path / name, last, events)
        if isinstance(last, Finished) and not options.get("preflight_only"):
            assert evidence_differences(spec or changed(), result.evidence) == []
        return result

    return go
