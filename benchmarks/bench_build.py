"""Time and memory of a dataset build, compared with reading the same Parquet file and writing the same bytes.

    python benchmarks/bench_build.py                 # (d) 1,000 names x 1,000 days x 112 ready features
    python benchmarks/bench_build.py --full          # and (e) 8.9 million rows x 112: needs some 15 GB of disk
    python benchmarks/bench_build.py --rows 200000   # (d) with fewer names

Each figure is measured in a separate process. Anonymous memory is RssAnon of /proc/PID/status, sampled every 20 ms. The
JSON goes to benchmarks/results/.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEATURES, HORIZONS = 112, (1, 5, 10, 20)
LIMIT_BYTES, LIMIT_RATIO = 4 << 30, 3.0


def write_panel(path: Path, names: int, days: int, dtype: str) -> None:
    """Write a panel of precomputed features sorted by day, one day in memory at a time. 1 % of the values of every
    second feature are missing.
    """
    rng = np.random.default_rng(0)
    calendar = np.busday_offset(np.datetime64("2010-01-01"), np.arange(days), roll="forward").astype("datetime64[D]")
    codes = pa.array([f"N{i:05d}" for i in range(names)])
    sectors = pa.array([f"S{i % 11}" for i in range(names)])
    targets = [f"target_{h}d" for h in HORIZONS]
    features = [f"f{j:03d}" for j in range(FEATURES)]
    kind = pa.from_numpy_dtype(dtype)
    schema = pa.schema(
        [("date", pa.date32()), ("code", pa.string()), ("sector", pa.string())]
        + [(n, kind) for n in (*targets, *features)]
    )
    per_group = max(1, (1 << 17) // names)
    with pq.ParquetWriter(path, schema, use_dictionary=["date", "code", "sector"]) as writer:
        waiting: list[pa.RecordBatch] = []
        for number, day in enumerate(calendar):
            values = rng.standard_normal((FEATURES + len(targets), names), dtype=np.float32).astype(dtype)
            values[len(targets) + 1 :: 2][rng.random((FEATURES // 2, names), dtype=np.float32) < 0.01] = np.nan
            values[: len(targets)] *= 0.02
            date = pa.array(np.full(names, day)).cast(pa.date32())
            waiting.append(pa.record_batch([date, codes, sectors, *map(pa.array, values)], schema=schema))
            if len(waiting) == per_group or number == days - 1:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting.clear()


def child_build(source: Path, out: Path) -> None:
    """Build the dataset; print its times, and the longest gaps between events and between cancellation checks."""
    from atft.data.builder.run import build  # noqa: PLC0415 - keeps the parent's memory small
    from atft.spec.data import DatasetSpec  # noqa: PLC0415

    longest, last, stages = 0.0, time.perf_counter(), {}

    def emit(event: object) -> None:
        nonlocal longest, last
        now = time.perf_counter()
        longest = max(longest, now - last)
        stage = getattr(event, "stage", None)
        stages.setdefault(stage, (now, time.process_time()))
        last = now

    longest_unchecked, last_check = 0.0, time.perf_counter()

    def stop() -> bool:
        nonlocal longest_unchecked, last_check
        now = time.perf_counter()
        longest_unchecked, last_check = max(longest_unchecked, now - last_check), now
        return False

    spec = DatasetSpec(name="bench", path=str(source), horizons=HORIZONS)
    start, cpu = time.perf_counter(), time.process_time()
    build(spec, out, emit, stop)
    end = time.perf_counter(), time.process_time()
    begins = [*((s, at) for s, at in stages.items() if s), ("", end)]
    parts = {
        stage: {"seconds": round(after[0] - at[0], 3), "cpu_seconds": round(after[1] - at[1], 3)}
        for (stage, at), (_, after) in itertools.pairwise(begins)
    }
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    spent = {"seconds": end[0] - start, "cpu_seconds": end[1] - cpu}
    spent |= {"bytes": size, "longest_silence": longest, "longest_deaf": longest_unchecked}
    print(json.dumps({**spent, "stages": parts}))


def child_copy(source: Path, out: Path) -> None:
    """The baseline: polars reads the whole file and writes it as uncompressed Arrow, then fsync."""
    import polars as pl  # noqa: PLC0415 - as above

    start, cpu = time.perf_counter(), time.process_time()
    pl.read_parquet(source).write_ipc(out, compression="uncompressed")
    with out.open("rb") as file:
        os.fsync(file.fileno())
    spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps({**spent, "bytes": out.stat().st_size}))


def run_child(kind: str, source: Path, out: Path, threads: int) -> dict[str, object]:
    """Run a child process; return the figures it printed and its peak anonymous memory."""
    limits = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    root = str(Path(__file__).resolve().parents[1])
    child = subprocess.Popen(
        [sys.executable, __file__, "--child", kind, str(source), str(out)],
        stdout=subprocess.PIPE,
        env={**os.environ, **limits, "PYTHONPATH": root},
    )
    peak = 0
    while child.poll() is None:
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
        except OSError:
            break
        peak = max([peak, *(int(x.split()[1]) << 10 for x in status.splitlines() if x.startswith("RssAnon"))])
        time.sleep(0.02)
    printed, _ = child.communicate()
    if child.returncode:
        sys.exit(f"the {kind} child failed with exit code {child.returncode}")
    return {**json.loads(printed), "peak_anonymous_bytes": peak}


def compare(folder: Path, names: int, days: int, dtype: str, threads: int, repeats: int) -> dict[str, object]:
    source = folder / "panel.parquet"
    write_panel(source, names, days, dtype)
    runs: dict[str, list[dict[str, object]]] = {"copy": [], "build": []}
    for _ in range(repeats):
        for kind, done in runs.items():
            out = folder / f"out-{kind}"
            done.append(run_child(kind, source, out, threads))
            shutil.rmtree(out) if out.is_dir() else out.unlink()
    median = {k: statistics.median(float(r["seconds"]) for r in runs[k]) for k in runs}  # type: ignore[arg-type]
    best = {k: min(float(r["seconds"]) for r in runs[k]) for k in runs}  # type: ignore[arg-type]
    cpu = {k: statistics.median(float(r["cpu_seconds"]) for r in runs[k]) for k in runs}  # type: ignore[arg-type]
    result = {
        "rows": names * days,
        "features": FEATURES,
        "dtype": dtype,
        "source_bytes": source.stat().st_size,
        "cache_bytes": runs["build"][0]["bytes"],
        "copy_bytes": runs["copy"][0]["bytes"],
        "copy_seconds": median["copy"],
        "build_seconds": median["build"],
        "ratio": median["build"] / median["copy"],
        "ratio_of_best": best["build"] / best["copy"],
        "copy_cpu_seconds": cpu["copy"],
        "build_cpu_seconds": cpu["build"],
        "cpu_ratio": cpu["build"] / cpu["copy"],
        "peak_anonymous_bytes": max(int(r["peak_anonymous_bytes"]) for r in runs["build"]),  # type: ignore[call-overload]
        "copy_peak_anonymous_bytes": max(int(r["peak_anonymous_bytes"]) for r in runs["copy"]),  # type: ignore[call-overload]
        "longest_silence_seconds": max(float(r["longest_silence"]) for r in runs["build"]),  # type: ignore[arg-type]
        # between two checks for cancellation
        "longest_deaf_seconds": max(float(r["longest_deaf"]) for r in runs["build"]),  # type: ignore[arg-type]
        "runs": runs,
    }
    source.unlink()
    return result


def processor() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor())


def show(name: str, result: dict[str, object]) -> None:
    gb = {k: int(v) / 1e9 for k, v in result.items() if k.endswith("_bytes")}  # type: ignore[call-overload]
    print(f"({name}) {result['rows']:,} rows x {result['features']} {result['dtype']}")
    for what, text in (
        ("build", f"{result['build_seconds']:.2f} s"),
        ("read and write the same", f"{result['copy_seconds']:.2f} s"),
        ("ratio", f"{result['ratio']:.2f}, of the best runs {result['ratio_of_best']:.2f}, limit {LIMIT_RATIO:g}"),
        ("CPU time", f"{result['build_cpu_seconds']:.2f} s against {result['copy_cpu_seconds']:.2f} s"),
        (
            "source, cache, copy",
            " ".join(f"{gb[k]:.2f}" for k in ("source_bytes", "cache_bytes", "copy_bytes")) + " GB",
        ),
        ("anonymous memory", f"{gb['peak_anonymous_bytes']:.2f} GB, limit {LIMIT_BYTES / 1e9:.2f}"),
        ("the copy's", f"{gb['copy_peak_anonymous_bytes']:.2f} GB"),
        ("longest silence", f"{result['longest_silence_seconds']:.1f} s"),
        ("longest between stop checks", f"{result['longest_deaf_seconds']:.2f} s"),
    ):
        print(f"    {what:<24} {text}")
    print("    stages of the last build:", result["runs"]["build"][-1]["stages"])  # type: ignore[index, call-overload]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of (d), 1,000 days")
    parser.add_argument("--full", action="store_true", help="also (e): 8.9 million rows")
    parser.add_argument("--only-full", action="store_true", help="(e) alone")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the files go (default: the system's temporary folder)")
    parser.add_argument("--child", nargs=3, metavar=("KIND", "SOURCE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, source, out = options.child
        (child_build if kind == "build" else child_copy)(Path(source), Path(out))
        return
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if not options.only_full:
            names = max(2, options.rows // 1000)
            found = compare(Path(folder), names, 1000, options.dtype, options.threads, options.repeats)
            show("d", found)
            results["d"] = found
        if options.full or options.only_full:
            found = compare(Path(folder), 3560, 2500, options.dtype, options.threads, 1)
            show("e", found)
            results["e"] = found
    now = datetime.now(UTC)
    body = {
        "benchmark": "build",
        "time": now.isoformat(timespec="seconds"),
        "device": processor(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "load_average": os.getloadavg(),
        "versions": {
            "python": platform.python_version(),
            **{m.__name__: m.__version__ for m in (np, pa)},
            "polars": __import__("polars").__version__,
        },
        "results": results,
    }
    target = Path(__file__).parent / "results" / f"{now:%Y-%m-%d}-build.json"
    target.parent.mkdir(exist_ok=True)
    old = json.loads(target.read_text()) if target.exists() else {"results": {}}
    body["results"] = {**old["results"], **results}
    target.write_text(json.dumps(body, indent=1) + "\n")
    print(f"written to {target}")


if __name__ == "__main__":
    main()
