"""The model learns the planted signal, and only where it is: small panels with a strong signal, a few seconds each.

Measured as the daily rank correlation of the scores with the observed-history oracle's, which has far less noise than
that with returns. Larger panels with realistic signals are measured by benchmarks/ablation.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from atft.data.builder.run import build
from atft.data.cache.reader import Cache
from atft.events import Event
from atft.spec.data import DatasetSpec
from atft.spec.job import TrainSpec
from atft.train.checkpoint import load_weights
from atft.train.evaluate import predict
from atft.train.loop import train
from atft.train.report import Reporter
from atft.train.setup import make_setup

Make = Callable[..., TrainSpec]
RECIPE: dict[str, Any] = {
    "data.window": 12,
    "data.horizons": [5],
    "data.min_names": 30,
    "split.train_days": 170,
    "split.val_days": 60,
    "split.test_days": 40,
    "model.hidden_size": 32,
    "graph": {"correlation_window": 60, "half_life": 30, "neighbours": 8, "refresh_days": 20},
    "optimizer.lr": 0.003,
    "trainer.max_epochs": 6,
    "trainer.batch_size": 1000,
    "scheduler.name": "cosine",
}


def agreement(mode: str, make_spec: Make, folder: Path, **changes: object) -> float:
    """Mean daily rank correlation, on the test days, with the best score that the features' history allows."""
    planted = {"num_codes": 100, "num_days": 370, "num_features": 4, "signal": 0.5, "mode": mode, "seed": 1}
    spec = DatasetSpec.model_validate({"name": mode, "planted": planted, "horizons": [5]})
    build(spec, folder / "cache", lambda _: None, lambda: False)
    cache = Cache.open(folder / "cache")
    run = make_spec(**{**RECIPE, **changes})
    events: list[Event] = []
    last = train(run, cache, folder / "run", events.append, lambda: False, None, test=False)
    assert last.type == "finished", last
    setup = make_setup(run, cache, Reporter(lambda _: None, epochs=1))
    setup.network.load_state_dict(load_weights(folder / "run" / "best.safetensors"))
    scored, _ = predict(
        setup.network,
        setup.reader,
        setup.objective,
        setup.split.test,
        micro_batch_days=8,
        heartbeat=lambda _: None,
    )
    assert cache.oracle is not None
    best = cache.oracle["observed"][scored.rows, 0]
    days = [scored.day == day for day in np.unique(scored.day)]
    return float(np.mean([spearmanr(scored.scores[day, 0], best[day]).statistic for day in days]))


def test_a_signal_in_the_neighbours_is_learned_with_the_graph(make_spec: Make, tmp_path: Path) -> None:
    found = agreement("graph_only", make_spec, tmp_path)
    assert found > 0.4


def test_a_signal_in_the_neighbours_is_not_learned_without_the_graph(make_spec: Make, tmp_path: Path) -> None:
    found = agreement("graph_only", make_spec, tmp_path, **{"model.use_gat": False})
    assert abs(found) < 0.15


def test_a_signal_in_time_is_learned_from_the_window(make_spec: Make, tmp_path: Path) -> None:
    found = agreement("cycle_only", make_spec, tmp_path)
    assert found > 0.6
