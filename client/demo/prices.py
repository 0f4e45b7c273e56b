"""`make demo`: registers real prices, trains on them and prints the test metrics, then runs a study and a comparison
(`client/demo/study.py`).

Starts a service of its own under `--var` (or uses the one at ATFT_URL) and stops it at the end. Exit code 0 only when
the job succeeded, every horizon has a finite test metric, and every trial of the study succeeded or was pruned.
"""

import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import typer
from pydantic import JsonValue
from rich.console import Console

from atft.spec.base import digest
from atft.spec.metric import (
    HIT_RATE,
    IC,
    IC_T,
    MAX_DRAWDOWN,
    NUM_DAYS,
    RANK_IC,
    RANK_ICIR,
    SHARPE_ANN,
    SHARPE_NET_ANN,
    TEST,
    TURNOVER,
    full_name,
)
from client.cli import display
from client.demo.study import TRIALS, DemoError, Json, require_success, run_study
from client.local.processes import ManagedProcess
from client.sdk.models import Metrics, Value
from client.sdk.sync import Client, ServiceError

HORIZONS: Final = (1, 5, 10, 20)
EMBARGO_DAYS: Final = 21
WINDOW: Final = 20
SAMPLES_PER_EPOCH: Final = 40_000  # an epoch takes seconds on two cores, whatever the panel
BASELINES: Final = ("linear_ard", "ridge", "ridge_lags", "lightgbm", "last_return", "zero")


def packaged_prices(target: Path) -> Path:
    """Write closes of 20 S&P 500 stocks, 1990 to 2022, from the package skfolio as Parquet (date, code, close)."""
    package = find_spec("skfolio")
    folders = package.submodule_search_locations if package is not None else None
    source = Path(folders[0]) / "datasets" / "data" / "sp500_dataset.csv.gz" if folders else None
    if source is None or not source.exists():
        raise DemoError(
            "the package skfolio or its prices are missing: run `make setup`, or set ATFT_DEMO_PRICES to a file"
        )
    wide = pa.csv.read_csv(source)
    codes = [name for name in wide.column_names if name != "Date"]
    long = pa.concat_tables(
        pa.table({"date": wide["Date"], "code": pa.array([code] * len(wide)), "close": wide[code]}) for code in codes
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(long, target)
    return target


def job_spec(dataset: str, num_days: int, num_codes: int) -> Json:
    """Spec of a small model with all modules; the last days are test and validation days."""
    free = num_days - WINDOW - max(HORIZONS) - 2 * EMBARGO_DAYS
    test_days = val_days = max(2, min(250, free // 4))
    train_days = max(2, min(free - test_days - val_days, max(120, SAMPLES_PER_EPOCH // max(1, num_codes)), 2000))
    return {
        "dataset": dataset,
        "name": "demo",
        "tags": {"made_by": "make demo"},
        "data": {"window": WINDOW, "horizons": list(HORIZONS), "min_names": 10},
        "split": {"train_days": train_days, "val_days": val_days, "test_days": test_days, "embargo_days": EMBARGO_DAYS},
        "model": {"hidden_size": 32, "attention_heads": 4},
        "optimizer": {"name": "adabelief", "lr": 1e-3},
        "scheduler": {"name": "cosine_restarts", "t_0": 3, "t_mult": 2, "eta_min": 5e-5},
        "trainer": {"max_epochs": 6, "batch_size": min(4096, 8 * num_codes)},
    }


@contextmanager
def running_service(url: str | None, var: Path, console: Console) -> Iterator[str]:
    """URL of a running service: the given one, or one that is started here and stopped on exit."""
    if url:
        yield url
        return
    console.print("starting Postgres, Valkey, the API and the workers …")
    var.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "client.cli", "up", "--port", "0", "--var", str(var), "--workers", "2"]
    up = ManagedProcess("atft up", command, var / "up.log", parent_death_signal=signal.SIGTERM)
    up.rotate_log()
    read_end, write_end = os.pipe()
    try:
        up.start(stdout=write_end)
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            line = pipe.readline()  # `atft up` has its own timeout; when it fails the pipe closes
            if not line.startswith("ready "):
                raise DemoError(f"the service did not start:\n{up.log_tail()}")
            yield line.split()[1]
    finally:
        up.stop(40.0)


def standard_error(values: Mapping[str, Value], horizon: int) -> float | None:
    """Of the mean daily test RankIC: daily standard deviation / √(days / h), as labels of h days overlap."""
    mean, ratio = values.get(full_name(TEST, RANK_IC, horizon)), values.get(full_name(TEST, RANK_ICIR, horizon))
    days = values.get(full_name(TEST, NUM_DAYS, horizon)) or values.get(full_name(TEST, NUM_DAYS))
    if mean is None or not ratio or not days:
        return None
    return abs(mean / ratio) * math.sqrt(horizon / days)


def verdict(values: Mapping[str, Value]) -> str:
    """One sentence on whether the test RankIC is significant."""
    beyond, unknown = [], []
    for horizon in HORIZONS:
        mean, error = values.get(full_name(TEST, RANK_IC, horizon)), standard_error(values, horizon)
        if mean is None or error is None:
            unknown.append(f"{horizon}d")
        elif abs(mean) > 2 * error:
            beyond.append(f"{horizon}d ({mean:+.3f}, standard error {error:.3f})")
    if unknown:
        return f"RankIC is undefined at {', '.join(unknown)}: no verdict."
    errors = ", ".join(f"{standard_error(values, horizon) or 0:.3f}" for horizon in HORIZONS)
    if not beyond:
        return (
            f"Insufficient evidence of skill: at every horizon RankIC lies within two standard errors ({errors}) of 0, "
            "so these figures are not significant. That is the usual outcome for a handful of stocks; "
            "what the demo shows is that the whole path works, not that it makes money."
        )
    return (
        f"RankIC lies beyond two standard errors of 0 at {'; '.join(beyond)}. One run, one split, four horizons "
        "looked at: a hint, not a proof; compare seeds, and the baselines above, before believing it."
    )


def _register(client: Client, prices: Path, console: Console) -> Json:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", prices.name.split(".")[0]).lstrip("-._")[:80] or "prices"
    console.print(f"registering {prices} as dataset [bold]{name}[/] …", highlight=False)
    spec = {"name": name, "horizons": list(HORIZONS)}
    job = display.watch_job(client, client.add_dataset(spec, file=prices).id, console, "dataset")
    require_success(job)
    dataset = client.dataset(name)
    days = dataset.get("days")
    period = f" from {days[0]} to {days[1]}" if isinstance(days, list) and len(days) == 2 else ""
    console.print(f"  {dataset['num_codes']} stocks × {dataset['num_days']} days{period}", highlight=False)
    return dataset


def _show(found: Metrics, console: Console) -> None:
    columns = [full_name(TEST, RANK_IC, horizon) for horizon in HORIZONS]
    shown = (RANK_IC, RANK_ICIR, IC, IC_T, HIT_RATE, SHARPE_ANN, SHARPE_NET_ANN, TURNOVER, MAX_DRAWDOWN)
    test = {name.removeprefix(f"{TEST}/"): value for name, value in found.latest.items() if name.startswith(f"{TEST}/")}
    console.print("\nThe model on the test days, which nothing was chosen on:")
    console.print(display.metrics_table({name: value for name, value in test.items() if name.split("@")[0] in shown}))
    rows = {"this model": found.latest} | {name: found.baselines[name] for name in BASELINES if name in found.baselines}
    console.print()
    console.print(display.baselines_table("Mean daily RankIC on the same days:", rows, columns))


def _train(client: Client, prices: Path, console: Console) -> tuple[Json, bool]:
    start = time.monotonic()
    dataset = _register(client, prices, console)
    registered = time.monotonic()
    spec = job_spec(str(dataset["name"]), int(str(dataset["num_days"])), int(str(dataset["num_codes"])))
    job = client.submit("train", spec)
    console.print(f"training job {job.id} …", highlight=False)
    job = require_success(display.watch_job(client, job.id, console, "train"))
    trained = time.monotonic()
    while job.verdict == "pending" and job.baselines_job_id is not None:
        display.watch_job(client, job.baselines_job_id, console, "baselines")
        job = client.job(job.id)
    found, evidence = client.metrics(job.id), client.evidence(job.id)
    _show(found, console)
    wanted = [found.latest.get(full_name(TEST, RANK_IC, horizon)) for horizon in HORIZONS]
    finite = all(value is not None and math.isfinite(value) for value in wanted)
    text = verdict(found.latest)
    console.print(f"\n{text}")
    summary: Json = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "job_id": job.id,
        "state": job.state,
        "dataset": {name: dataset.get(name) for name in ("name", "fingerprint", "num_days", "num_codes", "days")},
        "spec": job.spec,
        "spec_digest": job.spec_digest,
        "metrics": dict(found.latest),
        "best": found.best.model_dump(mode="json") if found.best else None,
        "baselines": {name: dict(values) for name, values in found.baselines.items()},
        "standard_error": {
            full_name(TEST, RANK_IC, horizon): standard_error(found.latest, horizon) for horizon in HORIZONS
        },
        "verdict": text,
        "evidence_digest": digest(evidence),
        "seconds": {"dataset": round(registered - start, 1), "train": round(trained - registered, 1)},
        "finite": finite,
    }
    return summary, finite


def _run(url: str, api_key: str | None, prices: Path, num_trials: int, console: Console) -> tuple[Json, bool]:
    console.print(f"live page {url}/   docs {url}/docs", highlight=False)
    second: Json = {"seconds": {}}
    study_ok = True
    with Client(url, api_key) as client:
        first, training_ok = _train(client, prices, console)
        if num_trials:
            second, study_ok = run_study(client, console, num_trials=num_trials)
    seconds = {part: value for half in (first, second) for part, value in _object(half["seconds"]).items()}
    return first | second | {"seconds": seconds, "cores": os.cpu_count()}, training_ok and study_ok


def _object(value: JsonValue) -> Json:
    return value if isinstance(value, dict) else {}


def main(
    var: Annotated[Path, typer.Option(help="Folder for the demo's service and summary.")] = Path("var/demo"),
    url: Annotated[
        str | None, typer.Option(envvar="ATFT_URL", help="URL of a running service; by default one is started.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="ATFT_API_KEY")] = None,
    prices: Annotated[
        Path | None, typer.Option(envvar="ATFT_DEMO_PRICES", help="Your own prices: Parquet, Arrow or CSV.")
    ] = None,
    trials: Annotated[
        int, typer.Option(min=0, help="Trials of the study; 0 skips the study and the comparison.")
    ] = TRIALS,
) -> None:
    console = display.console()
    start = time.monotonic()
    signal.signal(signal.SIGTERM, _raise_keyboard_interrupt)
    try:
        if prices is not None and not prices.is_file():
            raise DemoError(f"ATFT_DEMO_PRICES: there is no file {prices}")
        source = prices or packaged_prices(var / "sp500-closes.parquet")
        with running_service(url, var, console) as address:
            summary, passed = _run(address, api_key, source, trials, console)
            target = var / "summary.json"
            summary["seconds_in_all"] = round(time.monotonic() - start, 1)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(summary, indent=2) + "\n")
            console.print(f"summary {target}   {summary['seconds_in_all']} s", highlight=False)
            if not url:
                console.print(
                    f'stopping the service; `make up ARGS="--var {var}"` brings it and these jobs back', highlight=False
                )
    except (DemoError, ServiceError) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(130) from error
    raise typer.Exit(0 if passed else 1)


def _raise_keyboard_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
