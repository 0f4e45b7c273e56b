"""Terminal output: tables and a job's live progress; plain lines when the output is not a terminal."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import Final

from pydantic import JsonValue
from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from atft.spec.metric import IC_T, LEADING, LOSS, TRAIN, full_name
from client.sdk.models import Comparison, Event, Job, JobSummary, Value
from client.sdk.sync import Client, LiveJob

TRAIN_LOSS: Final = full_name(TRAIN, LOSS)
FOLD_INFIX: Final = re.compile(r"\.(\d+)/")  # names the fold or ensemble member: val.2/rank_ic
COLOURS: Final = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "pruned": "yellow", "running": "cyan"}


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; in a file or pipe lines are not wrapped."""
    made = Console(stderr=stderr, soft_wrap=True)
    if not made.is_terminal:
        made.width = 10_000
    return made


def escaped(value: object) -> str:
    """Text for a table, with rich's markup escaped; empty for None."""
    return "" if value is None else escape(str(value))


def format_number(value: JsonValue) -> str:
    """Format with four digits; an undefined value is a dash, and a small value is never shown as 0."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.4f}" if 1e-3 <= abs(value) < 10 else f"{value:.4g}"


def state_markup(job: JobSummary) -> str:
    """The job's state in its colour, with the reason in parentheses."""
    label = job.status or job.state
    colour = COLOURS.get(job.state, "default")
    return f"[{colour}]{escaped(label)}[/]" + (f" ({escaped(job.reason)})" if job.reason else "")


def jobs_table(jobs: Iterable[JobSummary]) -> Table:
    identity = Column("id", no_wrap=True, min_width=36)  # never cut off: other commands need it whole
    others = ("kind", "name", "state", "epoch", LEADING, "dataset", "created")
    table = Table(identity, *others, box=None, pad_edge=False)
    for job in jobs:
        epoch = f"{job.progress.epoch}/{job.progress.epochs}" if job.progress and job.progress.epochs else ""
        created = f"{job.created_at:%Y-%m-%d %H:%MZ}" if job.created_at else ""
        latest = job.latest or {}
        rank_ic = format_number(latest[LEADING]) if LEADING in latest else ""
        table.add_row(
            job.id, job.kind, escaped(job.name), state_markup(job), epoch, rank_ic, escaped(job.dataset), created
        )
    return table


def workers_table(workers: Iterable[Mapping[str, JsonValue]]) -> Table:
    table = Table("name", "host", "queue", "device", "doing", "last seen", box=None, pad_edge=False)
    for worker in workers:
        problem = worker.get("problem")  # services of before do not send it
        idle = "nothing" if not problem else f"[red]takes no job: {escaped(problem)}[/red]"
        doing = escaped(worker["busy_with"]) or (idle if worker["live"] else "[red]gone[/red]")
        cells = (escaped(worker[name]) for name in ("name", "host", "queue", "device"))
        table.add_row(*cells, doing, escaped(worker["last_seen"]))
    return table


def job_table(job: Job) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    rows: dict[str, object] = {
        "id": job.id, "kind": job.kind, "name": job.name, "state": Text.from_markup(state_markup(job)),
        "message": job.message, "verdict": job.verdict, "baselines job": job.baselines_job_id,
        "dataset": job.dataset, "waiting because": job.pending_reason, "attempt": job.attempt,
        "created": job.created_at, "started": job.started_at, "finished": job.finished_at,
        "spec digest": job.spec_digest,
    }  # fmt: skip
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, value if isinstance(value, Text) else escaped(value))
    for name, figure in sorted((job.latest or {}).items()):
        if "@" not in name:
            table.add_row(name, format_number(figure))
    return table


def metrics_table(values: Mapping[str, Value]) -> Table:
    """Table of metrics (rows) by horizon (columns); the first column is the mean over horizons."""
    horizons = sorted({name.split("@")[1] for name in values if "@" in name}, key=lambda text: int(text.rstrip("d")))
    table = Table("metric", "mean", *horizons, box=None, pad_edge=False)
    for name in sorted({name.split("@")[0] for name in values}):
        cells = [values.get(name), *(values.get(f"{name}@{horizon}") for horizon in horizons)]
        table.add_row(name, *(format_number(cell) for cell in cells))
    return table


def baselines_table(title: str, rows: Mapping[str, Mapping[str, Value]], columns: Sequence[str]) -> Table:
    table = Table(
        "", *(name.partition("/")[2] for name in columns), title=title, title_justify="left", box=None, pad_edge=False
    )
    for name, values in rows.items():
        table.add_row(
            name,
            *(format_number(values.get(column)) for column in columns),
            style="bold" if name == "this model" else None,
        )
    return table


def comparison_view(found: Comparison) -> Group:
    """Tables of a comparison: its jobs, their differing settings, whether it is fair, and the verdict of each pair."""
    jobs = Table("", found.metric, "std", IC_T, "days", "state", "id", box=None, pad_edge=False)
    names = {job.id: escape(job.name or job.id) for job in found.jobs}
    for job in found.jobs:
        figures = (format_number(job.mean), format_number(job.std), format_number(job.ic_t), str(job.num_days))
        jobs.add_row(names[job.id], *figures, job.state or "baseline", job.id)
    differences = Table("differs", *names.values(), box=None, pad_edge=False)
    for field, values in found.differences.items():
        differences.add_row(field, *(escape(str(value)) for value in values))
    fair = "[green]a fair comparison[/]" if found.fair else "[yellow]not a fair comparison:[/]"
    reasons = [f"  {escape(reason)}" for reason in found.unfair_because]
    pairs = Table("", "difference", "95 % interval", "p", "days", "verdict", box=None, pad_edge=False)
    for pair in found.pairs:
        interval = "–" if pair.ci95 is None else f"{format_number(pair.ci95[0])} to {format_number(pair.ci95[1])}"
        p_value = "–" if pair.p_value is None else "<0.001" if pair.p_value < 0.001 else f"{pair.p_value:.3f}"
        title = f"{names.get(pair.a, pair.a)} - {names.get(pair.b, pair.b)}"
        verdict = f"[bold]{escape(pair.verdict)}[/]"
        pairs.add_row(title, format_number(pair.mean_difference), interval, p_value, str(pair.num_days), verdict)
    parts: list[Table | str] = [jobs, ""]
    if found.differences:
        parts += [differences, ""]
    parts += [fair, *reasons, "", pairs]
    if found.model_confidence_set is not None:
        kept = ", ".join(names.get(one, one) for one in found.model_confidence_set)
        parts += ["", f"not significantly worse than the best at 95 %: {kept}"]
    return Group(*parts)


def watch_job(service: Client, job_id: str, console: Console, label: str = "") -> LiveJob:
    """Show a job's progress until it ends: a bar in a terminal, else a line per epoch. Returns the finished job."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[text]}"), TimeElapsedColumn(), console=console, transient=True,
    )  # fmt: skip
    live = console.is_terminal
    label = label or job_id[-12:]
    spec = service.job(job_id).spec
    base = spec.get("base")
    trainer = (base if isinstance(base, dict) else spec).get("trainer")
    objective = str(trainer["objective"]) if isinstance(trainer, dict) else LEADING
    with bar if live else nullcontext():
        task = bar.add_task(label, total=1.0, text="queued")
        for event in service.events(job_id):
            _show_event(event, bar, task, console, label, objective)
    return service.job(job_id)


def _show_event(event: Event, bar: Progress, task: TaskID, console: Console, label: str, objective: str) -> None:
    body = event.body
    match event.kind:
        case "progress":
            ratio = body.get("ratio")
            bar.update(
                task, completed=float(ratio) if isinstance(ratio, int | float) else 0.0, text=_progress_text(body)
            )
        case "metrics" if not body.get("source"):
            values = body.get("values")
            names = {FOLD_INFIX.sub("/", name): name for name in values} if isinstance(values, dict) else {}
            if isinstance(values, dict) and objective in names and TRAIN_LOSS in names:
                found = FOLD_INFIX.search(names[objective])
                where = f"{escaped(label)}  fold {found[1]}" if found else escaped(label)
                best = "  best so far" if body.get("best") else ""
                loss, reached = values[names[TRAIN_LOSS]], values[names[objective]]
                losses = f"{TRAIN_LOSS} {format_number(loss)}  {objective} {format_number(reached)}"
                console.print(f"  {where}  epoch {body.get('step')}  {losses}{best}", highlight=False)
        case "log" if body.get("level") in ("warning", "error"):
            console.print(f"  {label}  {body.get('level')}: {body.get('message')}", highlight=False, markup=False)
        case "state":
            bar.update(task, text=str(body.get("state", "")))
        case _:
            pass


def _progress_text(body: Mapping[str, JsonValue]) -> str:
    parts = [str(body.get("phase") or "")]
    if body.get("epochs"):
        parts.append(f"epoch {body.get('epoch')}/{body.get('epochs')}")
    if body.get("steps"):
        parts.append(f"step {body.get('step')}/{body.get('steps')}")
    eta = body.get("eta_seconds")
    if isinstance(eta, int | float):
        parts.append(f"{timedelta(seconds=round(eta))} left")
    return "  ".join(part for part in parts if part)
