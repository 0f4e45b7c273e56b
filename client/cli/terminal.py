"""What the commands share: where the service is, how a spec is read, what an exit code means."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import httpx
import typer
import yaml
from pydantic import JsonValue
from rich.console import Console

from client.cli import display
from client.sdk.models import Job
from client.sdk.sync import Client, LiveJob, Refused, ServiceError, Unreachable

out = display.console()
err = display.console(stderr=True)

JobId = Annotated[str, typer.Argument(metavar="ID")]
AsJson = Annotated[bool, typer.Option("--json", help="The service's own answer, for programs.")]
AlwaysJson = Annotated[
    bool, typer.Option("--json", help="The only form there is; taken so that scripts may always say it.")
]
SpecFile = Annotated[Path, typer.Argument(metavar="FILE", help="The spec, YAML or JSON.", exists=True, dir_okay=False)]


@dataclass(frozen=True)
class ServiceAddress:
    url: str
    api_key: str | None


@contextmanager
def connect(context: typer.Context) -> Iterator[Client]:
    target: ServiceAddress = context.obj
    try:
        with Client(target.url, target.api_key) as service:
            yield service
    except Unreachable as error:
        fail(3, f"{error}\nIs the service up? `atft up` starts one; --url or ATFT_URL names another.")
    except Refused as error:
        fail(2, str(error))
    except ServiceError as error:
        fail(3, str(error))
    except httpx.InvalidURL as error:
        fail(2, f"{target.url} is no address: {error}")


def fail(code: int, message: str) -> NoReturn:
    err.print(message, markup=False, highlight=False)
    raise typer.Exit(code)


def print_json(body: object) -> None:
    typer.echo(json.dumps(body, indent=2, ensure_ascii=False))


def job_as_json(job: Job) -> dict[str, JsonValue]:
    body: dict[str, JsonValue] = job.model_dump(mode="json", exclude_unset=True, by_alias=True)
    return body


def read_spec(file: Path) -> dict[str, JsonValue]:
    """JSON, else YAML. What could not be sent as JSON ends the command with exit code 2."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(2, f"{file}: {error}")
    try:
        body = json.loads(text)
    except ValueError:
        try:
            body = _JsonCompatibleLoader(text).get_single_data()
        except yaml.YAMLError as error:
            fail(2, f"{file}: {error}")
    if not isinstance(body, dict):
        fail(2, f"{file}: a spec is a mapping of fields")
    try:
        json.dumps(body, allow_nan=False)
    except (TypeError, ValueError) as error:
        fail(2, f"{file}: {error}: write it as JSON would have it")
    return body


class _JsonCompatibleLoader(yaml.SafeLoader):
    """1e-05 is a number, as in JSON and YAML 1.2, and a day stays the text that it is."""


_JsonCompatibleLoader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_JsonCompatibleLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^([-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def print_warnings(job: Job) -> None:
    for warning in job.warnings:
        err.print(f"warning: {warning}", markup=False, highlight=False)


def report_submission(
    service: Client,
    job: LiveJob,
    *,
    wait: bool,
    as_json: bool,
    watch: Callable[[Client, str, Console], LiveJob] = display.watch_job,
) -> None:
    """What a submit prints: its warnings, with `--wait` its course, its id, and then its end."""
    print_warnings(job)
    if wait:
        err.print(job.id)
        job = watch(service, job.id, err)
    print_json(job_as_json(job)) if as_json else typer.echo(job.id)
    if wait:
        exit_with_state(job)


def exit_with_state(job: Job) -> None:
    """The job's end, as a line and as the exit code."""
    if job.message and job.state != "succeeded":
        err.print(job.message, markup=False, highlight=False)
    err.print(f"{job.id} {display.state_markup(job)}", highlight=False)
    raise typer.Exit(0 if job.state == "succeeded" else 1)
