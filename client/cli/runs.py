"""The commands `atft pretrain` and `atft ensemble`."""

from typing import Annotated, Literal

import typer

from client.cli.terminal import AsJson, SpecFile, connect, print_json, read_spec, report_submission

app = typer.Typer()
Wait = Annotated[bool, typer.Option(help="Show the job's progress until it ends.")]
Plan = Annotated[bool, typer.Option(help="Show the plan; nothing is stored.")]
Key = Annotated[str | None, typer.Option(help="Idempotency-Key: the same key and spec create one job.")]


@app.command()
def pretrain(
    context: typer.Context,
    file: SpecFile,
    wait: Wait = False,
    plan: Plan = False,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Submit a pretraining of the encoder; prints its id, which a training takes as init_from."""
    _submit(context, "pretrain", file, wait, plan, key, as_json)


@app.command()
def ensemble(
    context: typer.Context,
    file: SpecFile,
    wait: Wait = False,
    plan: Plan = False,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Submit an ensemble: one training for each seed, scores averaged by rank; prints the job's id."""
    _submit(context, "ensemble", file, wait, plan, key, as_json)


def _submit(
    context: typer.Context,
    kind: Literal["pretrain", "ensemble"],
    file: SpecFile,
    wait: Wait,
    plan: Plan,
    key: Key,
    as_json: AsJson,
) -> None:
    with connect(context) as service:
        if plan:
            print_json(service.plan(kind, read_spec(file)))
            return
        job = service.submit(kind, read_spec(file), idempotency_key=key)
        report_submission(service, job, wait=wait, as_json=as_json)
