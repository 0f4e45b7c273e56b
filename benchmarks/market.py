"""RankIC of the model on a panel of real prices, compared with ridge and LightGBM on the same test days.

    python benchmarks/market.py PANEL.parquet [--universe MEMBERS.parquet] [--seeds 3] [--set FIELD JSON ...]

Each seed gives RankIC by horizon on test days that no selection used, and the paired test (cosine estimator) of the
model against each baseline. A panel with survivorship bias shows no tradable edge, whatever the test says.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ablation import BASELINES, Changes, mean, paired_tests, test_line, test_series

from atft.data.builder.run import build
from atft.data.cache.reader import Cache
from atft.events import Event, Finished
from atft.spec.data import DatasetSpec
from atft.spec.job import TrainSpec
from atft.spec.study import apply
from atft.train.loop import train

HORIZONS = (1, 5, 10, 20)
BASE: Changes = {
    "data.window": 20,
    "model.hidden_size": 32,
    "model.gat_layers": 1,
    "optimizer.lr": 0.001,
    "scheduler.name": "cosine",
    "trainer.max_epochs": 4,
    "trainer.ema_decay": 0.97,
    "resources.device": "cpu",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("panel", type=Path)
    parser.add_argument("--universe", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("FIELD", "JSON"))
    parser.add_argument("--out", type=Path, help="JSON, written after each seed")
    options = parser.parse_args()
    changes = BASE | {name: json.loads(value) for name, value in options.set}
    done: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="atft-market-") as folder:
        cache = build_cache(options.panel, options.universe, Path(folder) / "cache")
        for seed in range(options.seeds):
            start = time.process_time()
            done.append({"seed": seed, "changes": changes} | train_once(cache, changes, seed, Path(folder)))
            took = time.process_time() - start
            print(f"seed {seed}: {done[-1]['rank_ic']} ({took:.0f} s)", file=sys.stderr, flush=True)
            if options.out:
                options.out.write_text(json.dumps(done, indent=1, allow_nan=False) + "\n")
    print(table(done))


def build_cache(panel: Path, universe: Path | None, folder: Path) -> Cache:
    body: dict[str, Any] = {"name": "market", "path": str(panel.resolve()), "horizons": HORIZONS}
    if universe is not None:
        body["universe"] = {"file": str(universe.resolve())}
    build(DatasetSpec.model_validate(body), folder, lambda _: None, lambda: False)
    return Cache.open(folder)


def train_once(cache: Cache, changes: Changes, seed: int, folder: Path) -> dict[str, Any]:
    spec = apply(TrainSpec(dataset="market", seed=seed), changes)
    events: list[Event] = []
    with tempfile.TemporaryDirectory(dir=folder) as out:
        final_event = train(spec, cache, Path(out), events.append, lambda: False)
    if not isinstance(final_event, Finished):
        raise SystemExit(f"the run did not finish: {final_event}")
    daily = dict(test_series(events))
    result: Any = final_event.result
    return {
        "epoch": result["best"]["epoch"],
        "num_days": len(daily["model", HORIZONS[0]]),
        "rank_ic": {source: [mean(daily[source, h]) for h in HORIZONS] for source in ("model", *BASELINES)},
        "tests": paired_tests(daily, HORIZONS),
    }


def table(done: list[dict[str, Any]]) -> str:
    """A Markdown table of RankIC by source and seed, their mean, and the tests."""
    lines = ["| | " + " | ".join(f"{h} d" for h in HORIZONS) + " |", "|---" * (len(HORIZONS) + 1) + "|"]
    for source in ("model", *BASELINES):
        own = [one["rank_ic"][source] for one in done]
        rows = [(f"{source}, seed {one['seed']}", row) for one, row in zip(done, own, strict=True)]
        rows.append((f"{source}, mean", [statistics.fmean(column) for column in zip(*own, strict=True)]))
        lines += [f"| {name} | " + " | ".join(f"{x:+.4f}" for x in row) + " |" for name, row in rows]
    lines += [f"seed {one['seed']}, {test_line(test)}" for one in done for test in one["tests"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
