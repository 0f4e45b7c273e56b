"""The commands on the service itself: `atft up` and `atft workers`."""

from pathlib import Path
from typing import Annotated

import typer

from client.cli import display
from client.cli.terminal import AsJson, connect, err, fail, out, print_json
from client.local.up import UpOptions
from client.local.up import up as run_up

app = typer.Typer()


@app.command("up")
def _up(
    host: Annotated[
        str, typer.Option(envvar="ATFT_BIND", help="Address to listen on; beyond loopback only with keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 picks a free one.", min=0, max=65535)] = 8000,
    var: Annotated[Path, typer.Option(help="Folder of databases, runs and logs.", file_okay=False)] = Path("var"),
    workers: Annotated[int, typer.Option(help="Worker processes on queue cpu.", min=0, max=64)] = 1,
    gpus: Annotated[
        int | None, typer.Option(help="Worker processes on queue gpu, one per device.", min=0, show_default="all found")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(envvar="ATFT_DATABASE_URL", help="Postgres.", show_default="embedded")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(envvar="ATFT_REDIS_URL", help="Redis or Valkey.", show_default="embedded")
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            envvar="ATFT_DATA_ROOT", help="The only folder that a dataset's path may lie in.", show_default="VAR/data"
        ),
    ] = None,
    run_root: Annotated[
        Path | None, typer.Option(envvar="ATFT_RUN_ROOT", help="Folder of runs.", show_default="VAR/runs")
    ] = None,
) -> None:
    """Start API, workers and, unless both URLs are given, embedded servers; stop them on Ctrl-C."""
    given = {"ATFT_DATABASE_URL": database_url, "ATFT_REDIS_URL": redis_url}
    urls = {name: value for name, value in given.items() if value}
    if len(urls) == 1:
        fail(2, f"only {next(iter(urls))} is set: give both URLs, or neither for embedded servers")
    roots = {"ATFT_DATA_ROOT": data_root, "ATFT_RUN_ROOT": run_root}
    settings = {name: str(folder.resolve()) for name, folder in roots.items() if folder is not None}
    plan = UpOptions(host=host, port=port, var=var, workers=workers, urls=urls, settings=settings, gpus=gpus)
    raise typer.Exit(run_up(plan, lambda text: err.print(text, markup=False, highlight=False), typer.echo))


@app.command()
def workers(context: typer.Context, as_json: AsJson = False) -> None:
    """List the worker processes and their current jobs."""
    with connect(context) as service:
        found = service.workers()
    print_json(found) if as_json else out.print(display.workers_table(found))
