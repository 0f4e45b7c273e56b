"""`atft tensorboard`: one folder per job, files that grow in place, no partial files."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli.app import app
from client.sdk.sync import Refused
from tests.unit.client.small_server import Handler, serving

runner = CliRunner()
JOBS = {
    "/jobs/11111111": {"id": "11111111", "kind": "train", "state": "running", "name": "a/b: c"},
    "/jobs/22222222": {"id": "22222222", "kind": "hpo", "state": "running"},
    "/jobs/22222222/trials": {"items": [{"number": n, "job_id": f"t{n}", "state": "running"} for n in range(2)]},
    "/jobs/33333333": {"id": "33333333", "kind": "hpo", "state": "running"},
    "/jobs/33333333/trials": {"items": []},
}


def test_each_job_and_each_trial_has_a_folder(tmp_path: Path) -> None:
    content = [b"begin"]

    def on_request(request: Handler) -> None:
        known = JOBS.get(request.path)
        request.respond(200, known if known is not None else content[0])

    with serving(on_request) as client:
        command = ["--url", client.url, "tensorboard", "11111111", "22222222", "--to", str(tmp_path), "--json"]
        files = json.loads(runner.invoke(app, command).stdout)
        names = [str(Path(file).relative_to(tmp_path)) for file in files]
        assert names == [
            "a_b_ c-11111111/events.out.tfevents.0.11111111",
            "hpo-22222222/trial-0000/events.out.tfevents.0.t0",
            "hpo-22222222/trial-0001/events.out.tfevents.0.t1",
        ]
        with Path(files[0]).open("rb") as reader:  # as TensorBoard keeps it open
            assert reader.read() == b"begin"
            content[0] = b"begin, and more"
            assert runner.invoke(app, command).exit_code == 0
            assert reader.read() == b", and more"
        assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(
            Path(f).name for f in files
        )
        empty = runner.invoke(app, ["--url", client.url, "tensorboard", "33333333"])
    assert (empty.exit_code, "no trials" in empty.stderr) == (1, True)


def test_a_failed_download_leaves_the_file_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(b"old")
    with serving(lambda request: request.respond(404, {"title": "gone"})) as client, pytest.raises(Refused):
        client.download("/jobs/x/artifacts/model", file)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model", b"old")]
