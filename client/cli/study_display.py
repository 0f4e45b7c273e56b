"""A study in the terminal: a live table of its trials, or in a pipe one line per finished trial."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import JsonValue
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from client.cli.display import COLOURS, format_number
from client.sdk.models import TERMINAL, BestTrial, Importance, Job, Trial
from client.sdk.sync import Client, LiveJob

POLL_SECONDS: Final = 1.0
FRAME_LINES: Final = 6  # lines of the live view other than its trials


def watch_study(service: Client, job_id: str, console: Console) -> LiveJob:
    """Show a study's trials until it ends. Returns the finished job."""
    if not console.is_terminal:
        return _watch_as_lines(service, job_id, console)
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            job = service.job(job_id)  # before the trials, so that an ended study shows all of them
            trials = service.trials(job_id)
            live.update(_live_view(job, trials, None if job.done else console.height - FRAME_LINES))
            if job.done:
                return job
            time.sleep(POLL_SECONDS)


def _watch_as_lines(service: Client, job_id: str, console: Console) -> LiveJob:
    printed: set[int] = set()
    phase: str | None = None
    while True:
        job = service.job(job_id)
        if job.progress is not None and job.progress.phase != phase:
            phase = job.progress.phase
            if phase == "preflight":
                console.print("  both extremes of the space run one step each …", highlight=False)
        trials = service.trials(job_id)
        for trial in trials:
            if trial.state in TERMINAL and trial.number not in printed:
                printed.add(trial.number)
                finished = [one for one in trials if one.number in printed]
                console.print(f"  {_trial_line(job, trial, finished)}", highlight=False, markup=False)
        if job.done:
            return job
        time.sleep(POLL_SECONDS)


def _trial_line(job: Job, trial: Trial, finished: Sequence[Trial]) -> str:
    parts = [f"{len(finished)}/{_total_trials(job)}", f"trial {trial.number} {_trial_state(trial)}"]
    if trial.value is not None:
        parts.append(f"{_objective_metric(job)} {format_number(trial.value)}")
    elif trial.intermediate:
        epoch = max(trial.intermediate)
        parts.append(f"after epoch {epoch} at {format_number(trial.intermediate[epoch])}")
    parts.append(" ".join(f"{_short_name(name)}={format_number(value)}" for name, value in trial.params.items()))
    if trial.message and trial.state == "failed":
        parts.append(trial.message)
    best = best_of(job, finished)
    if best is not None:
        parts.append(f"best {format_number(best.value)} (trial {best.number})")
    return "  ".join(parts)


def _live_view(job: Job, trials: Sequence[Trial], rows: int | None) -> Group:
    done, total, best = sum(trial.state in TERMINAL for trial in trials), _total_trials(job), best_of(job, trials)
    bar = Table.grid(padding=(0, 1))
    text = f"{done}/{total} trials"
    if best is not None:
        text += f", best {_objective_metric(job)} {format_number(best.value)} (trial {best.number})"
    elif job.progress is not None and job.progress.phase == "preflight":
        text = "both extremes of the space run one step each"
    elif job.pending_reason:
        text = job.pending_reason
    bar.add_row(ProgressBar(total=total, completed=done, width=30), Text(text))
    shown = trials if rows is None else trials[-max(1, rows) :]
    return Group(trials_table(shown, best), bar)


def trials_table(trials: Sequence[Trial], best: Trial | None = None) -> Table:
    """Table of trials: number, state, value, parameters; without a final value the last epoch's in parentheses."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    table = Table("trial", "state", "value", *(_short_name(name) for name in names), box=None, pad_edge=False)
    for trial in trials:
        value = format_number(trial.value)
        if trial.value is None and trial.intermediate:
            value = f"({format_number(trial.intermediate[max(trial.intermediate)])})"
        cells = (escape(format_number(trial.params.get(name))) for name in names)
        style = "bold" if best is not None and trial.number == best.number else None
        state = f"[{COLOURS.get(trial.state, 'default')}]{_trial_state(trial)}[/]"
        table.add_row(str(trial.number), state, value, *cells, style=style)
    return table


def best_table(best: BestTrial) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    rows: Mapping[str, JsonValue] = {
        "trial": best.number, "job": best.job_id, "value": best.value, "epoch": best.epoch, **best.params,
    }  # fmt: skip
    for name, value in rows.items():
        table.add_row(name, escape(format_number(value)))
    return table


def importance_table(found: Importance) -> Table | str:
    if found.importance is None:
        return f"not available: {found.why}"
    table = Table("parameter", "importance", box=None, pad_edge=False)
    for name, share in sorted(found.importance.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{share:.0%}")
    return table


def best_of(job: Job, trials: Sequence[Trial]) -> Trial | None:
    """The trial with the best value, the first of equal ones; None when no trial has a value."""
    objective = job.spec.get("objective")
    sign = -1 if isinstance(objective, dict) and objective.get("direction") == "minimize" else 1
    valued = [trial for trial in trials if trial.value is not None]
    return max(valued, key=lambda trial: sign * (trial.value or 0.0), default=None)


def _trial_state(trial: Trial) -> str:
    return trial.state + (f" ({trial.reason})" if trial.reason and trial.reason != trial.state else "")


def _total_trials(job: Job) -> int:
    if job.progress is not None and job.progress.steps:
        return job.progress.steps
    return int(str(job.spec.get("n_trials") or 1))


def _objective_metric(job: Job) -> str:
    objective = job.spec.get("objective")
    return str(objective["metric"]) if isinstance(objective, dict) else "value"


def _short_name(name: str) -> str:
    return name.rpartition(".")[2]
