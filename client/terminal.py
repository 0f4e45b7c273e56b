"""What the commands share: where the service is, how a spec is read, what an exit code means."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import yaml
from pydantic import JsonValue
from rich.console import Console

from client import display
from client.sdk import Client, LiveJob, Refused, ServiceError, Unreachable
from client.views import Job

out = display.console()
err = display.console(stderr=True)

JobId = Annotated[str, typer.Argument(metavar="ID")]
AsJson = Annotated[bool, typer.Option("--json", help="The service's own answer, for programs.")]
IsJson = Annotated[
    bool, typer.Option("--json", help="The only form there is; taken so that scripts may always say it.")
]
SpecFile = Annotated[Path, typer.Argument(metavar="FILE", help="The spec, YAML or JSON.", exists=True, dir_okay=False)]


@dataclass(frozen=True)
class Target:
    url: str
    api_key: str | None


@contextmanager
def connected(context: typer.Context) -> Iterator[Client]:
    target: Target = context.obj
    try:
        with Client(target.url, target.api_key) as service:
            yield service
    except Unreachable as error:
        end(3, f"{error}\nIs the service up? `atft up` starts one; --url or ATFT_URL names another.")
    except Refused as error:
        end(2, str(error))
    except ServiceError as error:
        end(3, str(error))


def end(code: int, message: str) -> NoReturn:
    err.print(message, markup=False, highlight=False)
    raise typer.Exit(code)


def print_json(body: object) -> None:
    typer.echo(json.dumps(body, indent=2, ensure_ascii=False))


def view(job: Job) -> dict[str, JsonValue]:
    body: dict[str, JsonValue] = job.model_dump(mode="json", exclude_unset=True, by_alias=True)
    return body


def read(file: Path) -> dict[str, JsonValue]:
    try:
        body = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        end(2, f"{file}: {error}")
    if not isinstance(body, dict):
        end(2, f"{file}: a spec is a mapping of fields")
    return body


def warn(job: Job) -> None:
    for warning in job.warnings:
        err.print(f"warning: {warning}", markup=False, highlight=False)


def follow(
    service: Client,
    job: LiveJob,
    *,
    wait: bool,
    as_json: bool,
    watch: Callable[[Client, str, Console], LiveJob] = display.watch,
) -> None:
    """What a submit prints: its warnings, with `--wait` its course, its id, and then its end."""
    warn(job)
    if wait:
        err.print(job.id)
        job = watch(service, job.id, err)
    print_json(view(job)) if as_json else typer.echo(job.id)
    if wait:
        finish(job)


def finish(job: Job) -> None:
    """The job's end, as a line and as the exit code."""
    if job.message and job.state != "succeeded":
        err.print(job.message, markup=False, highlight=False)
    err.print(f"{job.id} {display.state(job)}", highlight=False)
    raise typer.Exit(0 if job.state == "succeeded" else 1)
