"""Ablations of the model and its training on planted panels, as a share of the observed-history oracle.

    python benchmarks/ablation.py                                    # every row, three seeds: hours of one core
    python benchmarks/ablation.py --rows base no-ema --seeds 1       # some rows
    python benchmarks/ablation.py --mode graph_only --signal 0.3 --rows base no-graph
    python benchmarks/ablation.py --out done.json                    # runs found in done.json are skipped

A seed sets the panel and the network's initial weights. A share is the mean daily rank correlation of the model's
scores with the oracle's on the test days, which no selection used. RankIC over the oracle's RankIC has the same
expectation and several times the noise; it is also in the JSON. `ensemble` averages the ranks of `--members` seeds of
`base` on one panel. Baselines are evaluated on the same days, with a paired test (cosine estimator) against each.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq

from atft.data.builder.run import build
from atft.data.cache.reader import Cache
from atft.events import Event, Finished, Metrics
from atft.metrics.inference import paired_difference
from atft.metrics.rank import average_ranks, daily_rank_ic
from atft.spec.data import DatasetSpec, PlantedMode
from atft.spec.job import TrainSpec
from atft.spec.study import apply
from atft.train.loop import train

Changes = dict[str, Any]
BASE: Changes = {
    "data.window": 20,
    "split.val_days": 100,
    "split.test_days": 100,
    "model.hidden_size": 32,
    "model.gat_layers": 1,
    "graph.neighbours_by": "residual_correlation",
    "graph.correlation_window": 250,
    "graph.half_life": 120,
    "optimizer.lr": 0.002,
    "optimizer.weight_decay": 2.0,
    "scheduler.name": "cosine",
    "scheduler.eta_min": 1e-5,
    "trainer.max_epochs": 10,
    "trainer.ema_decay": 0.97,
    "trainer.early_stopping": None,
    "resources.device": "cpu",
}
ROWS: dict[str, Changes] = {
    "base": {"baselines": True},
    "base loss only": {"loss.rank_weight": 0.0},
    "pearson_rank .05": {"loss.rank_weight": 0.05},
    "pearson_rank .2": {"loss.rank_weight": 0.2},
    "pearson_rank 1": {"loss.rank_weight": 1.0},
    "rank term alone": {"loss.base_weight": 0.0, "loss.rank_weight": 1.0},
    "pairwise_sigmoid": {"loss.rank": "pairwise_sigmoid"},
    "no EMA": {"trainer.ema_decay": None},
    "regime weights": {"loss.regime": "volatility_correlation"},
    "no sector edges": {"graph.sector_edges": False},
    "default graph": {
        "graph.neighbours_by": "correlation",
        "graph.correlation_window": 60,
        "graph.half_life": 30,
    },
    "no graph": {"model.use_gat": False},
    "no FAN": {"model.use_fan": False},
    "spec's optimizer": {
        "optimizer.lr": 5e-4,
        "optimizer.weight_decay": 1e-4,
        "scheduler.name": "cosine_restarts",
        "scheduler.eta_min": 5e-5,
    },
    "ensemble": {},
}
HORIZONS = (1, 5, 10, 20)
BASELINES = ("ridge", "lightgbm")
MIN_NAMES = 30


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The parameters of one planted panel."""

    mode: PlantedMode
    signal: float
    codes: int
    days: int
    features: int
    seed: int

    @property
    def horizons(self) -> tuple[int, ...]:
        return HORIZONS[:-1] if self.mode == "cycle_only" else HORIZONS  # a cycle's sum over its period is 0


def main() -> None:
    options = arguments()
    done: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out and options.out.exists() else []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        panel = Panel(
            mode=options.mode,
            signal=options.signal,
            codes=options.codes,
            days=options.days,
            features=options.features,
            seed=seed,
        )
        wanted = [row for row in options.rows if not any(matches(one, panel, row, options.set) for one in done)]
        if not wanted:
            continue
        with tempfile.TemporaryDirectory(prefix="atft-ablation-") as folder:
            cache = build_cache(panel, Path(folder) / "cache")
            for row in wanted:
                start = time.process_time()
                members = range(seed, seed + options.members) if row == "ensemble" else (seed,)
                runs = [train_once(cache, panel, ROWS[row] | options.set, one, Path(folder)) for one in members]
                found = evaluate(cache, panel, np.mean([run.ranks for run in runs], axis=0), runs[0])
                took = time.process_time() - start
                done.append(asdict(panel) | {"row": row, "set": options.set, "cpu_seconds": round(took, 1)} | found)
                if options.out:
                    options.out.write_text(json.dumps(done, indent=1, allow_nan=False) + "\n")
                shares = " ".join(f"{share:.3f}" for share in found["share"])
                print(f"{row}, seed {seed}: {shares} ({took:.0f} s)", file=sys.stderr, flush=True)
    print(table([one for one in done if one["mode"] == options.mode and one["signal"] == options.signal]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=get_args(PlantedMode), default="full")
    parser.add_argument("--signal", type=float, default=0.1)
    parser.add_argument("--codes", type=int, default=300)
    parser.add_argument("--days", type=int, default=700)
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--members", type=int, default=5, help="of the ensemble")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("FIELD", "JSON"), help="change a field in every row"
    )
    parser.add_argument("--out", type=Path, help="JSON, written after each run and read first")
    options = parser.parse_args()
    options.set = {name: json.loads(value) for name, value in options.set}
    return options


def matches(one: dict[str, Any], panel: Panel, row: str, changes: Changes) -> bool:
    return one["row"] == row and one["set"] == changes and asdict(panel).items() <= one.items()


def build_cache(panel: Panel, folder: Path) -> Cache:
    planted = {
        "num_codes": panel.codes,
        "num_days": panel.days,
        "num_features": panel.features,
        "signal": panel.signal,
        "mode": panel.mode,
        "seed": panel.seed,
    }
    body = {"name": "ablation", "planted": planted, "horizons": panel.horizons}
    build(DatasetSpec.model_validate(body), folder, lambda _: None, lambda: False)
    return Cache.open(folder)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Test-day results of one training: `ranks` [sample, horizon] within each day; `daily` by (source, horizon)."""

    ranks: np.ndarray
    rows: np.ndarray
    epoch: int
    daily: dict[tuple[str, int], list[float | None]]


def train_once(cache: Cache, panel: Panel, changes: Changes, seed: int, folder: Path) -> Run:
    """Train one spec and return its results on the test days."""
    base = TrainSpec(dataset="ablation", seed=seed, baselines=False)
    spec = apply(base, {**BASE, "data.horizons": panel.horizons, **changes})
    events: list[Event] = []
    with tempfile.TemporaryDirectory(dir=folder) as out:
        final_event = train(spec, cache, Path(out), events.append, lambda: False)
        if not isinstance(final_event, Finished):
            raise SystemExit(f"the run did not finish: {final_event}")
        columns = ["date", "code", *(f"score_{h}d" for h in panel.horizons)]
        found = pq.read_table(Path(out) / "predictions.parquet", columns=columns, filters=[("split", "==", "test")])
    day = np.searchsorted(cache.days, found["date"].to_numpy().astype(cache.days.dtype))
    code = np.searchsorted(cache.codes, found["code"].to_pandas().to_numpy())
    row_of = np.full((len(cache.days), len(cache.codes)), -1)
    row_of[cache.day_index, cache.code_index] = np.arange(len(cache.day_index))
    ranks = [average_ranks(found[f"score_{h}d"].to_numpy(), day) for h in panel.horizons]
    result: Any = final_event.result
    return Run(
        ranks=np.stack(ranks, axis=1),
        rows=row_of[day, code],
        epoch=result["best"]["epoch"],
        daily=dict(test_series(events)),
    )


def test_series(events: list[Event]) -> Iterator[tuple[tuple[str, int], list[float | None]]]:
    for event in events:
        if isinstance(event, Metrics):
            for one in event.daily:
                if one.name == "rank_ic" and one.split == "test":
                    yield (event.source or "model", one.horizon), list(one.values)


def evaluate(cache: Cache, panel: Panel, scores: np.ndarray, run: Run) -> dict[str, Any]:
    if cache.oracle is None:
        raise SystemExit("this panel has no oracle")
    best = np.asarray(cache.oracle["observed"][run.rows])
    day = cache.day_index[run.rows].astype(np.int64)
    share, of_rank_ic = [], []
    for k, horizon in enumerate(panel.horizons):
        first = int(day.min())
        days = int(day.max()) - first + 1
        daily = daily_rank_ic(scores[:, k], best[:, k], day - first, num_days=days, min_names=MIN_NAMES)
        share.append(float(np.nanmean(daily)))
        oracle = mean(run.daily["oracle_observed", horizon])
        of_rank_ic.append(
            {
                source: mean(values) / oracle
                for (source, h), values in run.daily.items()
                if h == horizon and source != "zero"  # constant scores have no RankIC
            }
        )
    return {
        "horizons": panel.horizons,
        "share": share,
        "of_rank_ic": of_rank_ic,
        "tests": paired_tests(run.daily, panel.horizons),
        "epoch": run.epoch,
    }


def paired_tests(daily: Mapping[tuple[str, int], list[float | None]], horizons: Sequence[int]) -> list[dict[str, Any]]:
    """Paired tests of the model against each baseline that was run, by horizon."""
    return [
        {"horizon": h, "against": other}
        | asdict(paired_difference(daily["model", h], daily[other, h], h, a_name="model", b_name=other))
        for h in horizons
        for other in BASELINES
        if (other, h) in daily
    ]


def test_line(test: Mapping[str, Any]) -> str:
    difference = f"model - {test['against']} {test['mean_difference']:+.4f}, p {test['p_value']:.3f}"
    return f"{test['horizon']} d: {difference}: {test['verdict']}"


def mean(values: list[float | None]) -> float:
    return statistics.fmean(value for value in values if value is not None)


def table(done: list[dict[str, Any]]) -> str:
    """A Markdown table of the mean over seeds, and the standard deviation between them at 5 days."""
    if not done:
        return "nothing was run"
    horizons = done[0]["horizons"]
    lines = ["| row | " + " | ".join(f"{h} d" for h in horizons) + " | ± at 5 d | seeds |"]
    lines.append("|---" * (len(horizons) + 3) + "|")
    for name, changes in dict.fromkeys((one["row"], json.dumps(one["set"])) for one in done):
        own = [one for one in done if one["row"] == name and json.dumps(one["set"]) == changes]
        at_five = [one["share"][list(horizons).index(5)] for one in own]
        spread = f"{statistics.stdev(at_five):.3f}" if len(own) > 1 else "-"
        cells = [f"{statistics.fmean(one['share'][k] for one in own):.3f}" for k in range(len(horizons))]
        label = name if changes == "{}" else f"{name} {changes}"
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {spread} | {len(own)} |")
    lines += [f"{one['row']}, seed {one['seed']}, {test_line(test)}" for one in done for test in one["tests"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
