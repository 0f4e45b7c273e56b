"""The command `atft`, put together from the modules beside it.

Exit codes: 0 success, 1 the job failed, 2 usage error or refused request, 3 service unreachable.
"""

import os
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from client.cli import datasets, jobs, predictions, runs, service, studies, tensorboard
from client.cli.terminal import ServiceAddress

app = typer.Typer(
    help="Submit and follow training jobs on stock panels.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(datasets.app, name="datasets")
for module in (service, jobs, runs, predictions, studies, tensorboard):
    app.add_typer(module.app)


@app.callback()
def _service(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="ATFT_URL", help="Address of the service.")] = "http://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(envvar="ATFT_API_KEY", help="API key.", show_default=False)] = None,
) -> None:
    context.obj = ServiceAddress(url, api_key)


PASSTHROUGH_SETTINGS: Mapping[str, bool] = {"allow_extra_args": True, "ignore_unknown_options": True}
PASSTHROUGH_COMMANDS = {
    "atft": {
        "run": "Train from a spec and a cache, without the service.",
        "build": "Build an Arrow cache, without the service.",
        "inspect": "Show what a panel or a cache contains.",
        "bench": "Run benchmarks of the library.",
    },
    "jobs.admin": {
        "doctor": "Check the installation and the servers.",
        "backup": "Save the database and the files of jobs.",
        "restore": "Restore a backup.",
        "keys": "Create, list and revoke API keys.",
    },
}


def _add_passthrough_commands(module: str) -> None:
    """Commands that replace this process by `python -m MODULE COMMAND …`."""

    def command(context: typer.Context) -> None:
        sys.stdout.flush()
        arguments = ["-m", module, str(context.info_name), *context.args]
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - no shell is wanted

    for name, text in PASSTHROUGH_COMMANDS[module].items():
        passthrough.command(name, help=text, context_settings=dict(PASSTHROUGH_SETTINGS), add_help_option=False)(
            command
        )


passthrough = typer.Typer()
for module_name in PASSTHROUGH_COMMANDS:
    _add_passthrough_commands(module_name)
app.add_typer(passthrough)


def main() -> None:
    app()
