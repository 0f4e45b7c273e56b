"""The commands on jobs: submit, plan, list, show, watch, cancel, pause, resume, retry, rerun, and their results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from atft.spec.metric import LEADING, LONG_SHORT, RANK_IC, TEST, full_name
from client.cli import display, study_display
from client.cli.terminal import (
    AlwaysJson,
    AsJson,
    JobId,
    SpecFile,
    check_kind,
    connect,
    err,
    exit_with_state,
    fail,
    is_study,
    job_as_json,
    out,
    print_json,
    read_spec,
    report_submission,
)
from client.sdk.models import Job
from client.sdk.sync import Client, LiveJob, Refused

app = typer.Typer()
DEFAULT_KIND = "train"
Wait = Annotated[bool, typer.Option(help="Show the new job's progress until it ends.")]
Kind = Annotated[
    str | None, typer.Option(metavar="KIND", help="Kind of job that the spec describes, such as hpo. [default: train]")
]
Key = Annotated[str | None, typer.Option(help="Idempotency-Key: the same key creates one job.")]


@app.command()
def submit(
    context: typer.Context,
    file: SpecFile,
    kind: Kind = None,
    wait: Annotated[bool, typer.Option(help="Show the job's progress until it ends.")] = False,
    key: Annotated[str | None, typer.Option(help="Idempotency-Key: the same key and spec create one job.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a training, or a job of another kind; prints its id."""
    wanted = check_kind(kind or DEFAULT_KIND)
    with connect(context) as service:
        with _hint_at_kind(kind):
            job = service.submit(wanted, read_spec(file), idempotency_key=key)
        report_submission(service, job, wait=wait, as_json=as_json, watch=_watch_of(wanted))


@app.command()
def plan(context: typer.Context, file: SpecFile, kind: Kind = None, _as_json: AlwaysJson = True) -> None:
    """Show the plan of a training, or of a job of another kind, as JSON; nothing is stored. It has the resolved spec,
    days, steps and parameters.
    """
    wanted = check_kind(kind or DEFAULT_KIND)
    with connect(context) as service, _hint_at_kind(kind):
        print_json(service.plan(wanted, read_spec(file)))


@contextmanager
def _hint_at_kind(kind: str | None) -> Iterator[None]:
    """Where a spec is refused for unknown fields and no kind was given, say that it may be of another kind."""
    try:
        yield
    except Refused as error:
        errors = error.problem.get("errors")
        codes = [one.get("code") for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
        if kind is None and "unknown_field" in codes:
            fail(2, f"{error}\nThis was sent as a {DEFAULT_KIND} job: give --kind if it describes another.")
        raise


def _watch_of(kind: str) -> Callable[[Client, str, Console], LiveJob]:
    return study_display.watch_study if is_study(kind) else display.watch_job


@app.command("ls")
def _ls(
    context: typer.Context,
    state: Annotated[str | None, typer.Option()] = None,
    kind: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs."""
    with connect(context) as service:
        page = service.jobs(limit=limit, state=state, kind=kind)
    print_json([job_as_json(job) for job in page.items]) if as_json else out.print(display.jobs_table(page.items))


@app.command()
def show(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job."""
    with connect(context) as service:
        job = service.job(job_id)
    print_json(job_as_json(job)) if as_json else out.print(display.job_table(job), highlight=False)


@app.command()
def watch(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job's progress, or a study's trials, until it ends; exit code 0 when it succeeded, else 1."""
    with connect(context) as service:
        job = service.job(job_id)
        job = _watch_of(job.kind)(service, job_id, err)
    if as_json:
        print_json(job_as_json(job))
    exit_with_state(job)


@app.command()
def logs(
    context: typer.Context,
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stream new output until the job ends.")] = False,
) -> None:
    """Print the log of a job's child process."""
    with connect(context) as service:
        for piece in service.follow_logs(job_id) if follow else [service.logs(job_id)]:
            typer.echo(piece, nl=False)


@app.command()
def metrics(
    context: typer.Context,
    job_id: JobId,
    name: Annotated[list[str] | None, typer.Argument(help=f"Prefixes, such as {TEST}/ or {LEADING}.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the latest metrics by horizon; --json prints the whole series."""
    with connect(context) as service:
        found = service.metrics(job_id, name or ())
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    chosen = {
        key: value for key, value in found.latest.items() if "/" in key and (not name or key.startswith(tuple(name)))
    }
    out.print(display.metrics_table(chosen))


@app.command()
def compare(
    context: typer.Context,
    job_ids: Annotated[list[str], typer.Argument(metavar="ID ID…")],
    metric: Annotated[
        str | None,
        typer.Option(
            help=f"Such as {full_name(TEST, RANK_IC, 5)} or {full_name(TEST, LONG_SHORT)}.",
            show_default=full_name(TEST, RANK_IC),
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="Compare with a stored baseline too, such as ridge; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare jobs: differing settings, whether the comparison is fair, and whether the difference is significant."""
    with connect(context) as service:
        found = service.compare(job_ids, metric=metric, baselines=baseline or ())
    print_json(found.model_dump(mode="json")) if as_json else out.print(display.comparison_view(found), highlight=False)


@app.command()
def evidence(context: typer.Context, job_id: JobId, _as_json: AlwaysJson = True) -> None:
    """Show the evidence of a job: requested, resolved and observed settings, as JSON."""
    with connect(context) as service:
        print_json(service.evidence(job_id))


def _print_state(job: Job, *, as_json: bool) -> None:
    print_json(job_as_json(job)) if as_json else err.print(f"{job.id} {display.state_markup(job)}", highlight=False)


@app.command()
def cancel(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Cancel a job."""
    with connect(context) as service:
        _print_state(service.cancel(job_id), as_json=as_json)


@app.command()
def pause(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Pause a job: it saves a checkpoint and frees its device."""
    with connect(context) as service:
        _print_state(service.pause(job_id), as_json=as_json)


@app.command()
def resume(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Resume a paused job from its checkpoint."""
    with connect(context) as service:
        _print_state(service.resume(job_id), as_json=as_json)


@app.command()
def retry(context: typer.Context, job_id: JobId, wait: Wait = False, key: Key = None, as_json: AsJson = False) -> None:
    """Continue a failed or cancelled job as a new job, from its last checkpoint; prints its id."""
    with connect(context) as service:
        job = service.retry(job_id, idempotency_key=key)
        report_submission(service, job, wait=wait, as_json=as_json)


@app.command()
def rerun(context: typer.Context, job_id: JobId, wait: Wait = False, key: Key = None, as_json: AsJson = False) -> None:
    """Repeat a succeeded job as a new job whose message reports differing metrics; prints its id."""
    with connect(context) as service:
        job = service.rerun(job_id, idempotency_key=key)
        report_submission(service, job, wait=wait, as_json=as_json)
