"""Epochs saved by pretraining: `python benchmarks/pretraining.py --out FOLDER --seeds 3`, minutes on one core.

On planted panels, for each seed: a training from random weights (`scratch`), and trainings that start from a
pretraining on the same days, by masked prediction and with a contrastive loss. Reported: the first epoch whose
validation RankIC reaches the best of `scratch` (null: never), the best itself and the RankIC of the test days. Every
run is a line of results.jsonl with its curve.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atft.data.builder.run import build
from atft.data.cache.reader import Cache
from atft.events import Event, Finished, Metrics
from atft.spec.data import DatasetSpec
from atft.spec.job import RunSpec, TrainSpec
from atft.spec.pretrain import PretrainSpec
from atft.train.loop import train

ARMS: Mapping[str, Mapping[str, float]] = {"masked": {}, "masked+contrast": {"contrast_weight": 0.1}}
ANY_ID = "00000000-0000-7000-8000-000000000000"  # only its form matters: the folder of the weights is passed directly
OBJECTIVE = "val/rank_ic"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--pretrain-epochs", type=int, default=15)
    parser.add_argument("--mode", default="full")
    parser.add_argument("--signal", type=float, default=0.15)
    options = parser.parse_args()
    for seed in range(options.seeds):
        print(json.dumps(measure(options, seed)), flush=True)


def measure(options: argparse.Namespace, seed: int) -> dict[str, object]:
    folder: Path = options.out / f"{options.mode}-{seed}"
    planted = {"num_codes": 150, "num_days": 400, "signal": options.signal, "seed": seed, "mode": options.mode}
    if not (folder / "cache").exists():
        dataset = DatasetSpec.model_validate({"name": "p", "planted": planted, "horizons": [1, 5, 10, 20]})
        build(dataset, folder / "cache", lambda _: None, lambda: False)
    cache = Cache.open(folder / "cache")
    runs = {"scratch": run(TrainSpec.model_validate(spec_body(options.epochs, seed)), cache, folder / "scratch")}
    for arm, settings in ARMS.items():
        first = PretrainSpec.model_validate(spec_body(options.pretrain_epochs, seed) | settings)
        runs[f"{arm}, first"] = run(first, cache, folder / f"{arm}-first")
        later = TrainSpec.model_validate(spec_body(options.epochs, seed) | {"init_from": ANY_ID})
        runs[arm] = run(later, cache, folder / arm, source=folder / f"{arm}-first")
    with (options.out / "results.jsonl").open("a") as file:
        for name, found in runs.items():
            file.write(json.dumps({"seed": seed, "arm": name, **found}) + "\n")
    goal = max(runs["scratch"]["curve"])
    return {"seed": seed, "goal": goal} | {arm: summary(runs[arm], goal) for arm in ("scratch", *ARMS)}


def spec_body(epochs: int, seed: int) -> dict[str, Any]:
    return {
        "dataset": "p",
        "seed": seed,
        "data": {"window": 20},
        "split": {"val_days": 70, "test_days": 40, "embargo_days": 21},
        "model": {"hidden_size": 16, "gat_layers": 1, "attention_heads": 4, "gat_heads": 4},
        "graph": {"sector_edges": False},
        "optimizer": {"lr": 0.002},
        "scheduler": {"name": "constant"},
        "trainer": {"max_epochs": epochs, "batch_size": 2250, "early_stopping": None},
        "resources": {"device": "cpu", "threads": 1},
    }


def run(spec: RunSpec, cache: Cache, out: Path, source: Path | None = None) -> dict[str, Any]:
    events: list[Event] = []
    if isinstance(spec, TrainSpec):
        spec = spec.model_copy(update={"baselines": False})
    start = time.process_time()
    final_event = train(spec, cache, out, events.append, lambda: False, source=source)
    assert isinstance(final_event, Finished), final_event
    objective = OBJECTIVE if isinstance(spec, TrainSpec) else "val/loss_masked"
    metrics = [event for event in events if isinstance(event, Metrics) and event.source is None]
    return {
        "seconds": round(time.process_time() - start, 1),
        "curve": [
            event.values[objective] for event in metrics if objective in event.values and "train/loss" in event.values
        ],
        "test": next((event.values["test/rank_ic"] for event in metrics if "test/rank_ic" in event.values), None),
    }


def summary(found: Mapping[str, Any], goal: float) -> dict[str, object]:
    curve: Sequence[float] = found["curve"]
    reached = next((epoch for epoch, value in enumerate(curve, 1) if value >= goal), None)
    return {"reached_at": reached, "best": round(max(curve), 4), "test": round(found["test"], 4)}


if __name__ == "__main__":
    main()
