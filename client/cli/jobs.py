"""The commands that say what is wanted of a job: `atft cancel`, `pause`, `resume`, `retry`, `rerun`."""

from typing import Annotated

import typer

from client.cli import display
from client.cli.terminal import AsJson, JobId, connected, err, follow, print_json, view
from client.sdk.models import Job

app = typer.Typer()
Wait = Annotated[bool, typer.Option(help="Show the new job until its end.")]
Key = Annotated[str | None, typer.Option(help="Idempotency-Key: the same key is one new job.")]


def _say(job: Job, *, as_json: bool) -> None:
    print_json(view(job)) if as_json else err.print(f"{job.id} {display.state(job)}", highlight=False)


@app.command()
def cancel(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Ask a job to end."""
    with connected(context) as service:
        _say(service.cancel(job_id), as_json=as_json)


@app.command()
def pause(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Ask a job to save itself and free its device."""
    with connected(context) as service:
        _say(service.pause(job_id), as_json=as_json)


@app.command()
def resume(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Queue a paused job again; it goes on from its checkpoint."""
    with connected(context) as service:
        _say(service.resume(job_id), as_json=as_json)


@app.command()
def retry(context: typer.Context, job_id: JobId, wait: Wait = False, key: Key = None, as_json: AsJson = False) -> None:
    """Go on with a failed or cancelled job, as a new one; prints its id."""
    with connected(context) as service:
        job = service.again(job_id, "retry", idempotency_key=key)
        follow(service, job, wait=wait, as_json=as_json)


@app.command()
def rerun(context: typer.Context, job_id: JobId, wait: Wait = False, key: Key = None, as_json: AsJson = False) -> None:
    """Repeat a succeeded job, as a new one whose message tells what drifted; prints its id."""
    with connected(context) as service:
        job = service.again(job_id, "rerun", idempotency_key=key)
        follow(service, job, wait=wait, as_json=as_json)
