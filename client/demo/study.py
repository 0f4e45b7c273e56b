"""The demo's second half: a study on a planted panel with a known best score, then a comparison of two optimizers."""

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Final

from pydantic import JsonValue
from rich.console import Console

from atft.spec.metric import ORACLE_SHARE, RANK_IC, TEST, VAL, full_name
from client.cli import display, study_display
from client.sdk.models import BestTrial, Comparison, Job, Metrics, Trial, Value
from client.sdk.sync import Client, LiveJob

Json = dict[str, JsonValue]
PLANTED: Final[Json] = {
    "num_codes": 100, "num_days": 500, "num_features": 8, "signal": 0.15, "mode": "full", "seed": 0,
}  # fmt: skip
SPLIT: Final[Json] = {"val_days": 80, "test_days": 160, "embargo_days": 11}
HORIZONS: Final = (1, 5, 10)
TRIALS: Final = 20
METRIC: Final = full_name(TEST, RANK_IC, 5)
SHARE: Final = full_name(TEST, ORACLE_SHARE, 5)
OPTIMIZERS: Final = ("adabelief", "adamw")
FULL_EPOCHS: Final = 8


class DemoError(Exception):
    """The demo cannot continue; the message says what to do."""


def require_success(job: LiveJob) -> LiveJob:
    """The job if it succeeded. Raises DemoError."""
    if job.state != "succeeded":
        raise DemoError(f"job {job.id} {job.state} ({job.reason}): {job.message or 'no message'}")
    return job


def study_spec(dataset: str, panel: Json, split: Json, num_trials: int, queue: str) -> Json:
    """Spec of a study on a network so small that a trial takes seconds, mostly for starting its process."""
    return {
        "base": {
            "dataset": dataset,
            "name": "demo study",
            "tags": {"made_by": "make demo"},
            "data": {"window": 10, "horizons": list(HORIZONS), "min_names": 10},
            "split": dict(split),
            "model": {"hidden_size": 16, "attention_heads": 4, "gat_heads": 2},
            "graph": {"correlation_window": 40, "half_life": 20, "neighbours": 8},
            "optimizer": {"name": "adamw", "lr": 3e-3},
            "scheduler": {"name": "constant"},
            "trainer": {"max_epochs": 4, "batch_size": 8 * int(str(panel["num_codes"]))},
            "resources": {"queue": queue},
        },
        "space": {
            "optimizer.lr": {"kind": "float", "low": 5e-4, "high": 6e-3, "log": True},
            "model.hidden_size": {"kind": "categorical", "choices": [8, 16]},
            "model.gat_dropout": {"kind": "float", "low": 0.0, "high": 0.4},
            "model.gat_layers": {"kind": "int", "low": 1, "high": 3},
        },
        "objective": {"metric": full_name(VAL, RANK_IC, 5), "direction": "maximize"},
        "sampler": {"name": "tpe", "seed": 0},
        "pruner": {"name": "median", "startup_trials": 5, "warmup_epochs": 1},
        "n_trials": num_trials,
        "parallelism": 2,
    }


def run_study(
    client: Client, console: Console, *, panel: Json = PLANTED, split: Json = SPLIT, num_trials: int = TRIALS
) -> tuple[Json, bool]:
    """The summary of it, and whether every trial succeeded or was pruned and every figure is finite. Raises DemoError,
    ServiceError."""
    start = time.monotonic()
    name = "planted"
    console.print(f"\nregistering a planted panel as dataset [bold]{name}[/], whose best possible score is known …")
    spec: Json = {"name": name, "horizons": list(HORIZONS), "planted": panel}
    require_success(display.watch_job(client, client.add_dataset(spec).id, console, "dataset"))
    dataset = client.dataset(name)
    console.print(f"  {dataset['num_codes']} stocks × {dataset['num_days']} days", highlight=False)
    registered = time.monotonic()
    queue = "cpu" if any(worker.get("queue") == "cpu" for worker in client.workers()) else "auto"
    reference = f"{name}@{dataset['version']}"
    job = client.hpo(study_spec(reference, panel, split, num_trials, queue))
    console.print(f"study {job.id}, {num_trials} trials …", highlight=False)
    job = require_success(study_display.watch_study(client, job.id, console))
    trials, best = client.trials(job.id), client.best(job.id)
    counts = Counter(str(trial.state) for trial in trials)
    _print_best(client, job, best, counts, console)
    studied = time.monotonic()
    console.print("\nAdaBelief and AdamW at these parameters, all else equal:")
    pair = {optimizer: _promote(client, job, optimizer) for optimizer in OPTIMIZERS}
    pair = {
        optimizer: require_success(display.watch_job(client, one.id, console, optimizer))
        for optimizer, one in pair.items()
    }
    found = client.compare([one.id for one in pair.values()], metric=METRIC)
    metrics = {optimizer: client.metrics(one.id, [f"{TEST}/"]) for optimizer, one in pair.items()}
    shares = {optimizer: one.latest.get(SHARE) for optimizer, one in metrics.items()}
    console.print()
    console.print(display.comparison_view(found), highlight=False)
    console.print(f"\n{conclusion(found, shares, best, metrics)}", highlight=False)
    compared = time.monotonic()
    summary: Json = {
        "planted": {key: dataset.get(key) for key in ("name", "fingerprint", "num_days", "num_codes")},
        "study": {
            "job_id": job.id,
            "n": len(trials),
            **{state: counts[state] for state in ("succeeded", "pruned", "failed", "cancelled")},
            "best": best.model_dump(mode="json", include={"number", "job_id", "params", "value", "epoch"}),
        },
        "comparison": found.model_dump(mode="json", exclude={"curves"}),
        "oracle_share": {f"{SHARE} {optimizer}": share for optimizer, share in shares.items()},
        "seconds": {
            "planted": round(registered - start, 1),
            "study": round(studied - registered, 1),
            "comparison": round(compared - studied, 1),
        },
    }
    return summary, study_passed(trials, num_trials, best, found, shares)


def study_passed(
    trials: list[Trial], num_trials: int, best: BestTrial, found: Comparison, shares: Mapping[str, Value]
) -> bool:
    """Whether every trial succeeded or was pruned, the comparison is fair, and all figures are finite."""
    figures = [best.value, *(job.mean for job in found.jobs), *(pair.mean_difference for pair in found.pairs)]
    figures += [*shares.values(), *(trial.value for trial in trials if trial.state == "succeeded")]
    return (
        len(trials) == num_trials
        and all(trial.state in ("succeeded", "pruned") for trial in trials)
        and found.fair
        and all(figure is not None and math.isfinite(figure) for figure in figures)
    )


def conclusion(found: Comparison, shares: Mapping[str, Value], best: BestTrial, metrics: Mapping[str, Metrics]) -> str:
    """The verdict of the comparison, with the limits of what it shows."""
    pair = found.pairs[0]
    interval = "" if pair.ci95 is None else f" (95 % interval {pair.ci95[0]:+.4f} to {pair.ci95[1]:+.4f})"
    oracle = metrics["adamw"].baselines.get("oracle_observed", {})
    reached = ", ".join(f"{name} {'undefined' if share is None else f'{share:.0%}'}" for name, share in shares.items())
    adamw = metrics["adamw"].latest.get(METRIC)
    return (
        f"Verdict: {pair.verdict}{interval}.\n"
        f"Share of the oracle reached at 5 days: {reached}. The oracle knows how the panel was made and sees the same "
        f"features; its RankIC on these days is {display.format_number(oracle.get(METRIC))}.\n"
        f"The parameters were found with AdamW, which favours it; the best of the trials has RankIC "
        f"{display.format_number(best.value)} on the validation days it was chosen on, and AdamW here "
        f"{display.format_number(adamw)} on test days. One seed, one panel."
    )


def _print_best(client: Client, job: Job, best: BestTrial, counts: Mapping[str, int], console: Console) -> None:
    ended = ", ".join(f"{count} {state}" for state, count in sorted(counts.items(), reverse=True))
    console.print(f"  {ended}; best {display.format_number(best.value)} is trial {best.number}:", highlight=False)
    console.print(study_display.best_table(best), highlight=False)
    found = client.importance(job.id)
    if found.importance is not None:
        shares = sorted(found.importance.items(), key=lambda item: -item[1])
        console.print(f"  importance: {', '.join(f'{name} {share:.0%}' for name, share in shares)}", highlight=False)


def _promote(client: Client, study: Job, optimizer: str) -> LiveJob:
    """Submit the best trial as a full training with test days; only the optimizer differs between the two calls."""
    changes = {"optimizer.name": optimizer, "name": optimizer, "trainer.max_epochs": FULL_EPOCHS, "baselines": False}
    return client.promote(study.id, changes)
