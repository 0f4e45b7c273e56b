"""The command `atft predict`."""

from pathlib import Path
from typing import Annotated

import typer

from client.cli import display
from client.cli.terminal import (
    AsJson,
    connect,
    err,
    exit_with_state,
    job_as_json,
    print_json,
    print_warnings,
    report_submission,
)

app = typer.Typer()
ARTIFACT = "predictions.parquet"


@app.command()
def predict(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="ID", help="A training job, trial or ensemble that has succeeded.")],
    dataset: Annotated[str, typer.Argument(help="A registered dataset, NAME or NAME@VERSION.")],
    from_day: Annotated[str, typer.Argument(metavar="FROM", help="First day, such as 2024-01-02.")],
    to_day: Annotated[str, typer.Argument(metavar="TO", help="Last day, inclusive.")],
    fold: Annotated[
        int | None, typer.Option(help="Fold whose weights are used, from 1; for models of several folds.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; nothing is stored.")] = False,
    wait: Annotated[bool, typer.Option(help="Show the job's progress until it ends.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="Wait, and save the scores here (Parquet).")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency-Key: the same key and spec create one job.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a range of days with a model's best weights; prints the job's id."""
    spec = {"model": model, "dataset": dataset, "from_day": from_day, "to_day": to_day, "fold": fold}
    with connect(context) as service:
        if dry_run:
            print_json(service.plan("predict", spec))
            return
        job = service.predict(spec, idempotency_key=key)
        if output is None:
            report_submission(service, job, wait=wait, as_json=as_json)
            return
        print_warnings(job)
        err.print(job.id)
        job = display.watch_job(service, job.id, err)
        if job.state == "succeeded":
            service.download(f"/jobs/{job.id}/artifacts/{ARTIFACT}", output)
        print_json(job_as_json(job)) if as_json else typer.echo(job.id)
        exit_with_state(job)
