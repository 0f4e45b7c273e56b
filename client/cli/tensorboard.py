"""The command `atft tensorboard`: metrics of jobs as event files for TensorBoard."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from client.cli.terminal import AsJson, connect, err, fail, is_study, print_json
from client.sdk.sync import Client

app = typer.Typer()


@app.command()
def tensorboard(
    context: typer.Context,
    job_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Jobs; a study stands for all its trials.")],
    to: Annotated[Path, typer.Option(help="Output folder, for `tensorboard --logdir FOLDER`.", file_okay=False)] = Path(
        "runs"
    ),
    as_json: AsJson = False,
) -> None:
    """Write metrics as TensorBoard event files, one folder per job; run it again to append new points."""
    with connect(context) as service:
        wanted = [(job_id, name) for given in job_ids for job_id, name in _runs(service, given)]
        if not wanted:
            fail(1, "this study has no trials yet")
        written = [_write(service, job_id, to / name) for job_id, name in wanted]
    print_json([str(file) for file in written]) if as_json else err.print(
        f"{len(written)} runs in {to}", markup=False, highlight=False
    )


def _runs(service: Client, job_id: str) -> list[tuple[str, str]]:
    """(job id, folder below the output folder) of a job, or of each trial of a study."""
    job = service.job(job_id)
    name = "".join(sign if sign.isalnum() or sign in " ,.+-_=" else "_" for sign in job.name or job.kind).strip(" .")
    folder = f"{name}-{job.id[-8:]}"
    if not is_study(job.kind):
        return [(job.id, folder)]
    return [(trial.job_id, f"{folder}/trial-{trial.number:04d}") for trial in service.trials(job.id) if trial.job_id]


def _write(service: Client, job_id: str, folder: Path) -> Path:
    """Overwrite in place: the old content is a prefix of the new, so that a running TensorBoard reads on."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"events.out.tfevents.0.{job_id}"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        shutil.copyfile(service.download(f"/jobs/{job_id}/tensorboard", Path(scratch) / file.name), file)
    return file
