"""Helpers that the commands share: connecting to the service, reading specs, printing, exit codes."""

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
from client.sdk.models import Job, JobSummary
from client.sdk.sync import Client, LiveJob, Refused, ServiceError, Unreachable

out = display.console()
err = display.console(stderr=True)

JobId = Annotated[str, typer.Argument(metavar="ID")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's response as JSON.")]
AlwaysJson = Annotated[bool, typer.Option("--json", help="Accepted for uniformity: the output is always JSON.")]
SpecFile = Annotated[Path, typer.Argument(metavar="FILE", help="The spec, YAML or JSON.", exists=True, dir_okay=False)]


@dataclass(frozen=True)
class ServiceAddress:
    """URL and API key of the service, from the command's global options."""

    url: str
    api_key: str | None


@contextmanager
def connect(context: typer.Context) -> Iterator[Client]:
    """A client of the service; its errors end the command with exit code 2 or 3."""
    address: ServiceAddress = context.obj
    try:
        with Client(address.url, address.api_key) as service:
            yield service
    except Unreachable as error:
        fail(3, f"{error}\nIs the service up? `atft up` starts one; --url or ATFT_URL names another.")
    except Refused as error:
        fail(2, str(error))
    except ServiceError as error:
        fail(3, str(error))
    except httpx.InvalidURL as error:
        fail(2, f"{address.url} is not a valid URL: {error}")


def fail(code: int, message: str) -> NoReturn:
    """Print a message to stderr and exit."""
    err.print(message, markup=False, highlight=False)
    raise typer.Exit(code)


def print_json(body: object) -> None:
    typer.echo(json.dumps(body, indent=2, ensure_ascii=False))


def job_as_json(job: JobSummary) -> dict[str, JsonValue]:
    """The job as the service sent it, without the defaults of missing fields."""
    body: dict[str, JsonValue] = job.model_dump(mode="json", exclude_unset=True, by_alias=True)
    return body


def read_spec(file: Path) -> dict[str, JsonValue]:
    """Read a spec, JSON or else YAML. Anything that JSON cannot represent ends the command with exit code 2."""
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
        fail(2, f"{file}: a spec must be a mapping of fields")
    try:
        json.dumps(body, allow_nan=False)
    except (TypeError, ValueError) as error:
        fail(2, f"{file}: {error}: only values that JSON can represent are allowed")
    return body


def check_kind(kind: str) -> str:
    """The name of a kind of job that `POST /jobs/{kind}` takes; for any other the command ends with exit code 2."""
    from atft.spec.kinds import kinds_where  # noqa: PLC0415 - a quarter of a second, which few commands need

    kinds = kinds_where(lambda one: one.path is not None and one.path.startswith("/jobs/"))
    if kind not in kinds:
        fail(2, f"--kind {kind}: give one of {', '.join(kinds)}")
    return kind


def is_study(kind: str) -> bool:
    """Whether the results of such a job are those of its trials."""
    from atft.spec.kinds import kind_named  # noqa: PLC0415 - as above

    found = kind_named(kind)
    return found is not None and found.view == "study"


class _JsonCompatibleLoader(yaml.SafeLoader):
    """YAML with JSON's scalars: 1e-05 is a number, as in YAML 1.2, and dates stay strings."""


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
    """Print the warnings of a submit to stderr."""
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
    """Print the warnings and the id of a submitted job; with `wait` show its progress and exit with its result."""
    print_warnings(job)
    if wait:
        err.print(job.id)
        job = watch(service, job.id, err)
    print_json(job_as_json(job)) if as_json else typer.echo(job.id)
    if wait:
        exit_with_state(job)


def exit_with_state(job: Job) -> None:
    """Print the final state and exit: 0 when the job succeeded, else 1."""
    if job.message and job.state != "succeeded":
        err.print(job.message, markup=False, highlight=False)
    err.print(f"{job.id} {display.state_markup(job)}", highlight=False)
    raise typer.Exit(0 if job.state == "succeeded" else 1)
