"""The command on pretrainings: `atft pretrain`."""

from typing import Annotated

import typer

from client.terminal import AsJson, SpecFile, connected, follow, print_json, read

app = typer.Typer()


@app.command()
def pretrain(
    context: typer.Context,
    file: SpecFile,
    wait: Annotated[bool, typer.Option(help="Show the job until its end.")] = False,
    plan: Annotated[bool, typer.Option(help="Only what it would be; nothing is stored.")] = False,
    key: Annotated[str | None, typer.Option(help="Idempotency-Key: the same key and spec are one job.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a pretraining of the encoder; prints its id, for a training's init_from."""
    with connected(context) as service:
        if plan:
            print_json(service.plan("pretrain", read(file)))
            return
        job = service.pretrain(read(file), idempotency_key=key)
        follow(service, job, wait=wait, as_json=as_json)
