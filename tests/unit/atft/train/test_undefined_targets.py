"""Targets that say nothing, and a graph without edges, are named before and after the training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from atft.data.cache.labels import undefined_targets
from atft.data.cache.reader import Cache
from atft.data.cache.splits import make_splits
from atft.events import Event, Failed, Log
from atft.spec.job import TrainSpec
from atft.train.loop import train


def test_undefined_targets_and_a_graph_without_edges_are_named(
    cache: Cache, make_spec: Callable[..., TrainSpec], tmp_path: Path
) -> None:
    spec = make_spec(**{"trainer.max_epochs": 1, "graph.threshold": 0.999, "graph.sector_edges": False})
    odd = Cache.open(cache.path)  # what is written to its private map stays there
    [split] = make_splits(odd, spec.data, spec.split)
    assert undefined_targets(odd, spec.data, split.train) == {}
    odd.targets[np.isin(odd.day_index, split.train), 0] = np.nan
    odd.targets[np.isin(odd.day_index, split.val), 1] = 0.0
    odd.targets[np.isin(odd.day_index, split.test)] = np.nan
    few = spec.data.model_copy(update={"min_names": 1000})
    assert undefined_targets(odd, few, split.train)[5] == "known for fewer than data.min_names = 1000 stocks a day"
    events: list[Event] = []
    last = train(spec, odd, tmp_path / "run", events.append, lambda: False)
    assert isinstance(last, Failed)
    assert "on the validation days the targets of 5 days are the same for all stocks of a day" in last.message
    warnings = [event.message for event in events if isinstance(event, Log) and event.level == "warning"]
    assert warnings[0].startswith(
        "graph: no two stocks are joined on any training day: each stock is trained without neighbours"
    )
    assert warnings[1].startswith("on all ")
    assert warnings[1].endswith("training days the targets of 1 days are unknown: nothing is learned of them")
    assert [text.removesuffix(": they have no metric there") for text in warnings[2:5]] == [
        "on all 12 validation days the targets of 5 days are the same for all stocks of a day",
        "on all 12 test days the targets of 1 days are unknown",
        "on all 12 test days the targets of 5 days are unknown",
    ]
