"""The command `atft`. Exit codes: 0 done, 1 the job failed, 2 usage, or a request that was refused, 3 no service."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from client.cli import datasets, display, jobs, predictions, runs, studies, study_display, tensorboard
from client.cli.terminal import (
    AsJson,
    IsJson,
    JobId,
    SpecFile,
    Target,
    connected,
    end,
    err,
    finish,
    follow,
    out,
    print_json,
    read,
    view,
)
from client.local.up import Plan
from client.local.up import up as run_up

app = typer.Typer(
    help="Training jobs on stock panels that can be trusted.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(datasets.app, name="datasets")
app.add_typer(jobs.app)
app.add_typer(runs.app)
app.add_typer(predictions.app)
app.add_typer(studies.app)
app.add_typer(tensorboard.app)


@app.callback()
def _service(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="ATFT_URL", help="Where the service is.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option(envvar="ATFT_API_KEY", help="A key of the service.", show_default=False)
    ] = None,
) -> None:
    context.obj = Target(url, api_key)


# -- the service


@app.command("up")
def _up(
    host: Annotated[
        str, typer.Option(envvar="ATFT_BIND", help="Address to listen on; beyond loopback only with keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 picks a free one.", min=0, max=65535)] = 8000,
    var: Annotated[Path, typer.Option(help="Folder of databases, runs and logs.", file_okay=False)] = Path("var"),
    workers: Annotated[int, typer.Option(help="Worker processes on queue cpu.", min=0, max=64)] = 1,
    gpus: Annotated[
        int | None, typer.Option(help="Worker processes on queue gpu, one a device.", min=0, show_default="all found")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(envvar="ATFT_DATABASE_URL", help="Postgres.", show_default="embedded")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(envvar="ATFT_REDIS_URL", help="Redis or Valkey.", show_default="embedded")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(envvar="ATFT_DATA_ROOT", help="Folder of server paths.", show_default="VAR/data")
    ] = None,
    run_root: Annotated[
        Path | None, typer.Option(envvar="ATFT_RUN_ROOT", help="Folder of runs.", show_default="VAR/runs")
    ] = None,
) -> None:
    """Start API, workers and, unless both URLs are given, embedded servers; stop them on Ctrl-C."""
    given = {"ATFT_DATABASE_URL": database_url, "ATFT_REDIS_URL": redis_url}
    urls = {name: value for name, value in given.items() if value}
    if len(urls) == 1:
        end(2, f"only {next(iter(urls))} is set: give both URLs, or neither for embedded servers")
    roots = {"ATFT_DATA_ROOT": data_root, "ATFT_RUN_ROOT": run_root}
    settings = {name: str(folder.resolve()) for name, folder in roots.items() if folder is not None}
    plan = Plan(host=host, port=port, var=var, workers=workers, urls=urls, settings=settings, gpus=gpus)
    raise typer.Exit(run_up(plan, lambda text: err.print(text, markup=False, highlight=False), typer.echo))


# -- jobs


@app.command()
def submit(
    context: typer.Context,
    file: SpecFile,
    wait: Annotated[bool, typer.Option(help="Show the job until its end.")] = False,
    key: Annotated[str | None, typer.Option(help="Idempotency-Key: the same key and spec are one job.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a training job; prints its id."""
    with connected(context) as service:
        job = service.submit("train", read(file), idempotency_key=key)
        follow(service, job, wait=wait, as_json=as_json)


@app.command()
def plan(context: typer.Context, file: SpecFile, _as_json: IsJson = True) -> None:
    """What a training, a study or an ensemble would be, as JSON: the resolved spec, days, steps, parameters. Nothing is
    stored. A pretraining's spec may be a training's too: `atft pretrain FILE --plan`.
    """
    with connected(context) as service:
        spec = read(file)
        print_json(service.plan("ensemble" if "seeds" in spec else "hpo" if "base" in spec else "train", spec))


@app.command("ls")
def _ls(
    context: typer.Context,
    state: Annotated[str | None, typer.Option()] = None,
    kind: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest jobs."""
    with connected(context) as service:
        page = service.jobs(limit=limit, state=state, kind=kind)
    print_json([view(job) for job in page.items]) if as_json else out.print(display.jobs_table(page.items))


@app.command()
def show(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """One job."""
    with connected(context) as service:
        job = service.job(job_id)
    print_json(view(job)) if as_json else out.print(display.job_lines(job), highlight=False)


@app.command()
def watch(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job's progress, or a study's trials, until its end; the exit code tells how it ended."""
    with connected(context) as service:
        job = service.job(job_id)
        job = (
            study_display.watch_study(service, job_id, err)
            if job.kind == "hpo"
            else display.watch(service, job_id, err)
        )
    if as_json:
        print_json(view(job))
    finish(job)


@app.command()
def logs(
    context: typer.Context,
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
) -> None:
    """What the job's program wrote."""
    with connected(context) as service:
        for piece in service.follow_logs(job_id) if follow else [service.logs(job_id)]:
            typer.echo(piece, nl=False)


@app.command()
def metrics(
    context: typer.Context,
    job_id: JobId,
    name: Annotated[list[str] | None, typer.Argument(help="Prefixes, such as test/ or val/rank_ic.")] = None,
    as_json: AsJson = False,
) -> None:
    """The latest metrics by horizon; --json has the series."""
    with connected(context) as service:
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
        str | None, typer.Option(help="Such as test/rank_ic@5d or test/long_short.", show_default="test/rank_ic")
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="A stored baseline as one more side, such as ridge; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Jobs side by side: what sets them apart, whether that is fair, and whether the difference is more than chance."""
    with connected(context) as service:
        found = service.compare(job_ids, metric=metric, baselines=baseline or ())
    print_json(found.model_dump(mode="json")) if as_json else out.print(display.comparison(found), highlight=False)


@app.command()
def evidence(context: typer.Context, job_id: JobId, _as_json: IsJson = True) -> None:
    """What really ran, beside what was asked, as JSON."""
    with connected(context) as service:
        print_json(service.evidence(job_id))


@app.command()
def workers(context: typer.Context, as_json: AsJson = False) -> None:
    """The worker processes and what they do."""
    with connected(context) as service:
        found = service.workers()
    print_json(found) if as_json else out.print(display.workers_table(found))


# -- other programs of ours, run in this process's place

PASS_ON: Mapping[str, bool] = {"allow_extra_args": True, "ignore_unknown_options": True}


def _become(module: str) -> None:
    def command(context: typer.Context) -> None:
        sys.stdout.flush()
        arguments = ["-m", module, str(context.info_name), *context.args]
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - no shell is wanted

    for name, text in PROGRAMS[module].items():
        app.command(name, help=text, context_settings=dict(PASS_ON), add_help_option=False)(command)


PROGRAMS = {
    "atft": {
        "run": "Train from a spec and a cache, without the service.",
        "build": "Build an Arrow cache, without the service.",
        "inspect": "What a panel or a cache holds.",
        "bench": "Measure the library.",
    },
    "jobs.admin": {
        "doctor": "Check the installation and the servers.",
        "backup": "Save the record.",
        "restore": "Load a saved record.",
        "keys": "Make and revoke API keys.",
    },
}
for _module in PROGRAMS:
    _become(_module)


def main() -> None:
    app()
