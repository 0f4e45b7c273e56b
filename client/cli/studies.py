"""The commands on studies: `atft hpo`, `trials`, `best`, `importance` and `promote`."""

import json
from typing import Annotated

import typer
from pydantic import JsonValue

from client.cli import display, study_display
from client.cli.terminal import (
    AsJson,
    JobId,
    SpecFile,
    connect,
    err,
    exit_with_state,
    fail,
    job_as_json,
    out,
    print_json,
    read_spec,
    report_submission,
)

app = typer.Typer()


@app.command()
def hpo(
    context: typer.Context,
    file: SpecFile,
    wait: Annotated[bool, typer.Option(help="Show the trials until the study ends.")] = False,
    key: Annotated[str | None, typer.Option(help="Idempotency-Key: the same key and spec create one study.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a hyperparameter study; prints its id."""
    with connect(context) as service:
        job = service.hpo(read_spec(file), idempotency_key=key)
        report_submission(service, job, wait=wait, as_json=as_json, watch=study_display.watch_study)


@app.command()
def trials(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """A study's trials: parameters, state, value."""
    with connect(context) as service:
        found = service.trials(job_id)
        best = study_display.best_of(service.job(job_id), found)
    if as_json:
        print_json([trial.model_dump(mode="json") for trial in found])
    else:
        out.print(study_display.trials_table(found, best))


@app.command()
def best(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show a study's best trial so far; --json includes its training spec."""
    with connect(context) as service:
        found = service.best(job_id)
    print_json(found.model_dump(mode="json")) if as_json else out.print(study_display.best_table(found))


@app.command()
def importance(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show the parameter importance of a finished study."""
    with connect(context) as service:
        found = service.importance(job_id)
    print_json(found.model_dump(mode="json")) if as_json else out.print(study_display.importance_table(found))


@app.command()
def promote(
    context: typer.Context,
    job_id: JobId,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Such as trainer.max_epochs=20; repeatable."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Show the job's progress until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a study's best trial, or a job itself, as a full training; prints its id."""
    changes = dict(_change(text) for text in change or ())
    with connect(context) as service:
        job = service.promote(job_id, changes)
        if wait:
            err.print(job.id)
            job = display.watch_job(service, job.id, err)
        print_json(job_as_json(job)) if as_json else typer.echo(job.id)
    if wait:
        exit_with_state(job)


def _change(text: str) -> tuple[str, JsonValue]:
    """Split FIELD=VALUE; the value is parsed as JSON (1, 1e-3, true, null, [1, 5]), else it is a string."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        fail(2, f"--set {text}: write FIELD=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
