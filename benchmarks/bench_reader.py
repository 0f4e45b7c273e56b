"""Data reader throughput compared with other libraries: 1,000 stocks × 1,000 days × 112 features, window 60.

    python benchmarks/bench_reader.py [--names 1000 --days 1000 --seconds 2 --rounds 5]

(a) Windows a second received by a consumer; each contender is a separate process, and their turns alternate.
(b) The share of data loading in a training step of the real model. (c) Cold start: open the cache, read first windows.
(d) The day graph: building all of it, and the subgraph of one day induced by 500 stocks.
On first use the panel and one virtual environment per peer are created under var/bench/; a peer that cannot be
installed is reported as not run, with the reason.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from bench_build import FEATURES, HORIZONS, write_panel

from atft.data.builder.run import build
from atft.data.cache.graph import day_graph, graph_digest
from atft.data.cache.reader import Cache
from atft.spec.data import DatasetSpec
from atft.spec.model import GraphSpec

HERE = Path(__file__).resolve().parent
VAR = HERE.parent / "var" / "bench"
PEERS = {"pyqlib": "pyqlib==0.9.7", "pytorch-forecasting": "pytorch-forecasting==1.8.0"}

GOALS = {"data_share": 0.02, "cold_seconds": 0.05, "gpu_ratio": 100.0, "subgraph_seconds": 0.001}


class NotRun(Exception):
    """A contender could not be measured; the message says why."""


class Contender:
    """A program of benchmarks/peers in its own process, which measures for a number of seconds on request."""

    def __init__(self, python: Path, program: str, *arguments: str) -> None:
        self.log = VAR / f"{Path(program).stem}-{arguments[-1] if arguments else ''}.log".replace("/", "_")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(python), str(HERE / "peers" / program), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.rounds: list[dict[str, float]] = []
        self.about = self._read_line()

    def measure(self, seconds: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        self.rounds.append(self._read_line())

    def _read_line(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise NotRun(f"it ended with code {self.process.returncode}: {self.log.read_text()[-600:].strip()}")
        parsed: dict[str, float] = json.loads(line)
        return parsed

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=1000)
    parser.add_argument("--days", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--only", choices=("windows", "share", "cold", "graph"), action="append")
    options = parser.parse_args()
    wanted = options.only or ["windows", "share", "cold", "graph"]
    VAR.mkdir(parents=True, exist_ok=True)
    cache = make_panel(options.names, options.days)
    result: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "panel": {"names": options.names, "days": options.days, "features": FEATURES, "window": 60},
        "machine": machine(),
        "goals": GOALS,
    }
    if "windows" in wanted:
        result["windows_per_second"] = windows_per_second(cache, options)
    if "share" in wanted:
        result["training"] = data_share(cache)
    if "cold" in wanted:
        result["cold_process"] = cold_process(cache)
    if "graph" in wanted:
        result["graph"] = graph(cache)
    if options.only:
        return  # a partial run does not replace a full result
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y-%m-%d}-reader.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path.relative_to(HERE.parent)}")


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, object]:
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def make_panel(names: int, num_days: int) -> Path:
    """Build a cache of precomputed features from a Parquet file; return its folder."""
    out = VAR / f"panel-{names}-{num_days}"
    if (out / "manifest.json").exists():
        return out
    log(f"writing and building {names} × {num_days} × {FEATURES}")
    source = VAR / f"panel-{names}-{num_days}.parquet"
    write_panel(source, names, num_days, "float32")
    build(DatasetSpec(name="bench", path=str(source), horizons=HORIZONS), out, lambda _: None, lambda: False)
    source.unlink()
    return out


def environment(name: str) -> Path:
    """The Python of a peer's virtual environment, which uses our torch, NumPy and pyarrow."""
    home = VAR / "env" / name
    python = home / "bin" / "python"
    if not (home / "installed").exists():
        log(f"installing {PEERS[name]} into {home} (once)")
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        site = next((home / "lib").glob("python*/site-packages"))
        (site / "ours.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        command = [str(python), "-m", "pip", "install", "-q", "--no-input", PEERS[name]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
        if done.returncode:
            raise NotRun(f"pip install {PEERS[name]} failed: {done.stderr.strip()[-400:]}")
        (home / "installed").touch()
    return python


def windows_per_second(cache: Path, options: argparse.Namespace) -> dict[str, object]:
    ours = Path(sys.executable)
    plans: dict[str, tuple[Path | str, str, tuple[str, ...]]] = {
        "memcpy": (ours, "ours.py", ("memcpy", str(cache), "cpu")),
        "atft, windows apart": (ours, "ours.py", ("windows", str(cache), "cpu")),
        "atft, rows shared": (ours, "ours.py", ("shared", str(cache), "cpu")),
        "DataLoader, 0 workers": (ours, "dataloader.py", (str(cache), "0")),
        "DataLoader, 2 workers": (ours, "dataloader.py", (str(cache), "2")),
        "Parquet file a stock": (ours, "parquet_files.py", (str(cache), str(VAR / f"parquet-{cache.name}"))),
        "Qlib TSDataSampler": ("pyqlib", "qlib_sampler.py", (str(cache),)),
        "pytorch-forecasting": ("pytorch-forecasting", "forecasting.py", (str(cache),)),
    }
    if torch.cuda.is_available():
        plans["atft, resident on the GPU"] = (ours, "ours.py", ("windows", str(cache), "cuda"))
    running: dict[str, Contender] = {}
    table: dict[str, dict[str, object]] = {}
    try:
        for name, (where, program, arguments) in plans.items():
            start = time.perf_counter()
            try:
                python = where if isinstance(where, Path) else environment(where)
                running[name] = Contender(python, program, *arguments)
                log(f"{name}: ready after {time.perf_counter() - start:.0f} s")
            except (NotRun, OSError, subprocess.SubprocessError) as error:
                table[name] = {"not_run": str(error)}
                log(f"{name}: not run: {error}")
        for turn in range(options.rounds):
            for contender in running.values():
                contender.measure(options.seconds)
            log(f"round {turn + 1} of {options.rounds}")
    finally:
        for contender in running.values():
            contender.close()
    for name, contender in running.items():
        rates = [r["windows"] / r["seconds"] for r in contender.rounds]
        table[name] = {
            "windows_per_second": statistics.median(rates),
            "least": min(rates),
            "most": max(rates),
            "bytes_per_second": statistics.median(r["bytes"] / r["seconds"] for r in contender.rounds),
            # CPU time is not affected by other load on the machine; DataLoader workers are not counted
            "windows_per_cpu_second": statistics.median(r["windows"] / r["cpu_seconds"] for r in contender.rounds),
            "windows_counted": sum(r["windows"] for r in contender.rounds),
            "about": contender.about,
        }
    rate = {name: float(row["windows_per_second"]) for name, row in table.items() if "windows_per_second" in row}  # type: ignore[arg-type]
    mine = rate["atft, windows apart"]
    peers = {name: value for name, value in rate.items() if not name.startswith(("atft", "memcpy"))}
    best = max(peers, key=lambda name: peers[name])
    print(f"{'':28}{'windows/s':>12}{'least':>12}{'most':>12}{'per CPU s':>12}{'ours is':>10}")
    for name in plans:
        row = table[name]
        if "not_run" in row:
            print(f"{name:28}not run: {row['not_run']}")
        else:
            cells = (rate[name], row["least"], row["most"], row["windows_per_cpu_second"])
            print(f"{name:28}{''.join(f'{cell:12,.0f}' for cell in cells)}{mine / rate[name]:9.2f}×")
    ahead = all(mine > value for value in peers.values())
    print(f"best peer: {best}; ours is {'ahead of every one that ran' if ahead else 'NOT ahead of every one'}")
    return {
        "contenders": table,
        "best_peer": best,
        "ahead_of_every_peer": ahead,
        "ours_to_best_peer": mine / rate[best],
        "shared_to_best_peer": rate["atft, rows shared"] / rate[best],
        "gpu_to_best_peer": rate["atft, resident on the GPU"] / rate[best] if torch.cuda.is_available() else None,
    }


def data_share(cache: Path) -> dict[str, object]:
    """Time per part of a few steps of `python -m atft run`, from the metrics that the run reports."""
    spec = {
        "dataset": "bench",
        "data": {"window": 60},
        "split": {"train_days": 60, "val_days": 2, "test_days": 2, "embargo_days": 21},
        "model": {"hidden_size": 64},
        "trainer": {"max_epochs": 1, "batch_size": 2000, "max_steps_per_epoch": 4, "precision": "float32"},
        "resources": {"device": "auto", "threads": os.cpu_count()},
        "baselines": False,
    }
    out = VAR / "run"
    shutil.rmtree(out, ignore_errors=True)
    file = VAR / "spec.json"
    file.write_text(json.dumps(spec))
    log("training 4 steps of 2 days")
    command = [sys.executable, "-m", "atft", "run", str(file), "--cache", str(cache), "--out", str(out), "--no-test"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [e["message"] for e in events if e["type"] == "failed"]
    if done.returncode or failed:
        raise SystemExit(f"the training run failed: {failed or done.stderr[-1000:]}")
    values = {k: v for e in events if e["type"] == "metrics" for k, v in e["values"].items()}
    seconds = {part: values[f"time/{part}_seconds"] for part in ("data", "graph", "forward", "backward", "optimizer")}
    total = sum(seconds.values())
    reader = next(e["body"]["data"] for e in events if e["type"] == "evidence" and "data" in e["body"])
    share = seconds["data"] / total
    print(f"data share of a training step: {100 * share:.2f} % (graph look-up {100 * seconds['graph'] / total:.2f} %)")
    return {
        "spec": spec,
        "seconds": seconds,
        "data_share": share,
        "graph_share": seconds["graph"] / total,
        "reader": reader["reader"],
    }


def cold_process(cache: Path) -> dict[str, object]:
    """Time from a fresh interpreter to the first windows, with the files in the page cache. `imports` are our modules
    after torch; only the `with_imports` figures include them.
    """
    runs = []
    for _ in range(7):
        done = subprocess.run(
            [sys.executable, str(HERE / "peers" / "cold.py"), str(cache)], capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout))
    parts = {name: min(run[name] for run in runs) for name in runs[0]}
    median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    total = [run["open"] + run["first_windows"] for run in runs]
    strict = [run["imports"] + run["open"] + run["first_windows"] for run in runs]
    strict_cpu = min(run["imports_cpu"] + run["open_and_first_cpu"] for run in runs)
    print(
        f"cold process: open {1000 * median['open']:.1f} ms + first windows {1000 * median['first_windows']:.1f} ms, "
        f"best {1000 * min(total):.1f} ms (processor time {1000 * parts['open_and_first_cpu']:.1f} ms); "
        f"with importing our modules {1000 * statistics.median(strict):.0f} ms, best {1000 * min(strict):.0f} ms "
        f"(processor time {1000 * strict_cpu:.0f} ms)"
    )
    return {
        "best": parts,
        "median": median,
        "open_and_first_best": min(total),
        "with_imports_best": min(strict),
        "with_imports_median": statistics.median(strict),
        "runs": runs,
    }


def graph(folder: Path) -> dict[str, object]:
    """Time to build the graph of GraphSpec's defaults, and to read subgraphs of 500 stocks on random days."""
    cache, spec = Cache.open(folder), GraphSpec()
    (folder / "graphs" / f"{graph_digest(spec)}.arrow").unlink(missing_ok=True)
    start = time.perf_counter()
    built = day_graph(cache, spec, lambda _: None)
    seconds = time.perf_counter() - start
    rng, took, edges = np.random.default_rng(0), [], []
    for day in rng.integers(int(built.days[0]), len(cache.days), 500):
        names = rng.choice(len(cache.codes), min(500, len(cache.codes)), replace=False)
        start = time.perf_counter()
        found, _ = built.edges(int(day), names)
        took.append(time.perf_counter() - start)
        edges.append(found.shape[1])
    median = statistics.median(took)
    print(
        f"graph: {len(built.days)} refresh days of {len(cache.codes)} names in {seconds:.1f} s; 500 names' subgraph "
        f"{1000 * median:.3f} ms ({statistics.median(edges):.0f} edges), best {1000 * min(took):.3f} ms"
    )
    return {
        "refresh_days": len(built.days),
        "names": len(cache.codes),
        "build_seconds": seconds,
        "subgraph_seconds": {"median": median, "best": min(took), "most": max(took)},
        "subgraph_edges": statistics.median(edges),
    }


if __name__ == "__main__":
    main()
