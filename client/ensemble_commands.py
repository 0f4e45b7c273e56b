"""The command on seed ensembles: `atft ensemble`."""

from typing import Annotated

import typer

from client.terminal import AsJson, SpecFile, connected, follow, print_json, read

app = typer.Typer()


@app.command()
def ensemble(
    context: typer.Context,
    file: SpecFile,
    wait: Annotated[bool, typer.Option(help="Show the job until its end.")] = False,
    plan: Annotated[bool, typer.Option(help="Only what it would be; nothing is stored.")] = False,
    key: Annotated[str | None, typer.Option(help="Idempotency-Key: the same key and spec are one job.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit one training for each seed, whose scores are averaged by rank; prints the job's id."""
    with connected(context) as service:
        if plan:
            print_json(service.plan("ensemble", read(file)))
            return
        job = service.ensemble(read(file), idempotency_key=key)
        follow(service, job, wait=wait, as_json=as_json)
