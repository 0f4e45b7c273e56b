"""The commands of `atft`: exit codes, output, and behaviour without a service."""

import inspect
import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner

from client.cli import display, terminal
from client.cli.app import PASSTHROUGH_COMMANDS, app
from client.cli.display import format_number, job_table, jobs_table, metrics_table
from client.sdk.models import Event, Job
from tests.unit.client.small_server import Handler, serving

runner = CliRunner()


def test_an_unreachable_service_exits_with_3() -> None:
    result = runner.invoke(app, ["--url", "http://127.0.0.1:9", "ls"])
    assert result.exit_code == 3
    assert "atft up" in result.stderr


def test_a_worker_that_takes_no_job_says_why() -> None:
    worker = {"name": "w", "host": "h", "queue": "cpu", "device": "cpu", "last_seen": "now", "busy_with": None}
    text = StringIO()
    rows = [worker | {"live": True, "problem": "[not] mounted"}, worker | {"live": False, "problem": "old"}]
    Console(file=text, width=200).print(display.workers_table(rows))
    assert "takes no job: [not] mounted" in text.getvalue()
    assert "old" not in text.getvalue()


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c"])
def test_an_invalid_spec_file_exits_with_2(tmp_path: Path, text: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(text)
    result = runner.invoke(app, ["submit", str(file)])
    assert result.exit_code == 2
    assert "spec.yaml" in result.stderr


def test_one_url_of_two_exits_with_2(tmp_path: Path) -> None:
    result = runner.invoke(
        app, ["up", "--var", str(tmp_path)], env={"ATFT_DATABASE_URL": "postgresql://x", "ATFT_REDIS_URL": ""}
    )
    assert result.exit_code == 2
    assert "both URLs" in result.stderr


def test_a_prediction_is_saved_atomically(tmp_path: Path) -> None:
    file = tmp_path / "scores.parquet"
    file.write_bytes(b"old")
    requested: list[str] = []

    def on_request(request: Handler) -> None:
        requested.append(f"{request.command} {request.path}")
        job = {"id": "a", "kind": "predict", "state": "succeeded"}
        if request.path.endswith("/events"):
            request.respond(204, b"")
        elif request.path.endswith(".parquet"):
            body = b"scores" if len([line for line in requested if "parquet" in line]) > 1 else b""
            request.respond(200 if body else 404, body or {"title": "gone"})
        else:
            assert request.command == "GET" or json.loads(request.read())["fold"] == 2
            request.respond(200 if request.command == "GET" else 202, job)

    with serving(on_request) as client:
        command = ["--url", client.url, "predict", "m", "d", "2020-01-01", "2020-02-01", "--fold", "2", "-o", str(file)]
        assert runner.invoke(app, command).exit_code == 2
        assert file.read_bytes() == b"old"
        done = runner.invoke(app, command)
    assert (done.exit_code, done.stdout) == (0, "a\n")
    assert file.read_bytes() == b"scores"
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]
    assert requested[0] == "POST /jobs/predict"
    assert requested[-1] == "GET /jobs/a/artifacts/predictions.parquet"


def test_a_dataset_has_one_source() -> None:
    assert runner.invoke(app, ["datasets", "add", "x"]).exit_code == 2


def test_side_files_go_with_an_upload(tmp_path: Path) -> None:
    side = tmp_path / "members.csv"
    side.write_text("year,code")
    result = runner.invoke(app, ["datasets", "add", "x", "--path", "p.csv", "--universe", str(side)])
    assert result.exit_code == 2
    assert "--spec" in result.stderr


def test_an_undefined_figure_is_a_dash_and_never_0() -> None:
    assert format_number(None) == "–"
    assert [format_number(x) for x in (1.2e-5, -3e-5, 4.9e-4)] == ["1.2e-05", "-3e-05", "0.00049"]
    assert [format_number(x) for x in (0.0, 0.01234, -0.5, 12.345, 250.0, 7)] == [
        "0",
        "0.0123",
        "-0.5000",
        "12.35",
        "250",
        "7",
    ]
    table = metrics_table({"rank_ic": 0.1, "rank_ic@5d": None, "rank_ic@20d": 0.2})
    assert [column.header for column in table.columns] == ["metric", "mean", "5d", "20d"]
    assert [next(iter(column.cells)) for column in table.columns] == ["rank_ic", "0.1000", "–", "0.2000"]


def test_json_is_read_as_yaml(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(json.dumps({"dataset": "d", "optimizer": {"lr": 1e-3}}))
    result = runner.invoke(app, ["--url", "http://127.0.0.1:9", "plan", str(file)])
    assert result.exit_code == 3  # the file is valid, but the service is unreachable


@pytest.mark.parametrize("action", ["cancel", "pause", "resume", "retry", "rerun"])
def test_actions_print_the_job_and_its_state(action: str) -> None:
    requested: list[tuple[str, bool]] = []

    def on_request(request: Handler) -> None:
        request.read()
        requested.append((request.path, "Idempotency-Key" in request.headers))
        request.respond(202, {"id": "new" if action.startswith("re") else "old", "kind": "train", "state": "queued"})

    with serving(on_request) as client:
        result = runner.invoke(app, ["--url", client.url, action, "old"])
    assert result.exit_code == 0, result.output
    assert requested == [(f"/jobs/old/{action}", action in ("retry", "rerun"))]
    assert ("new" if action.startswith("re") else "old") in result.output
    with serving(on_request) as client:
        result = runner.invoke(app, ["--url", client.url, action, "old", "--json"])
    assert json.loads(result.stdout)["kind"] == "train"


def test_every_command_that_prints_data_has_a_json_option() -> None:
    """Scripts can pass --json to any command that prints data; `logs`, `up` and passthrough commands print text."""
    answering = [command for command in app.registered_commands if command.callback is not None]
    groups = [group.typer_instance for group in app.registered_groups if group.typer_instance is not None]
    answering += [command for group in groups for command in group.registered_commands]
    without = [
        (command.name or command.callback.__name__).strip("_")
        for command in answering
        if not {"as_json", "_as_json"} & set(inspect.signature(command.callback).parameters)
    ]
    assert set(without) <= {"up", "logs", "rm", *(name for names in PASSTHROUGH_COMMANDS.values() for name in names)}


@pytest.mark.parametrize("kind", ["pretrain", "ensemble"])
@pytest.mark.parametrize("plan", [False, True])
def test_a_pretraining_or_an_ensemble_is_submitted_or_planned(tmp_path: Path, plan: bool, kind: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("dataset: d\nmask_ratio: 0.2\n")
    requested: list[tuple[str, object]] = []

    def on_request(request: Handler) -> None:
        requested.append((request.path, json.loads(request.read())))
        request.respond(200 if plan else 202, {"epochs": 3} if plan else {"id": "p", "kind": kind, "state": "queued"})

    with serving(on_request) as client:
        result = runner.invoke(app, ["--url", client.url, kind, str(file), *["--plan"] * plan])
    assert result.exit_code == 0, result.output
    assert requested == [(f"/jobs/{kind}" + "?dry_run=true" * plan, {"dataset": "d", "mask_ratio": 0.2})]
    assert ('"epochs": 3' if plan else "p") in result.output


def test_a_spec_is_of_the_kind_that_is_given_and_a_training_without_one(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("base: {dataset: d}\n")
    requested: list[str] = []
    unknown = {
        "title": "invalid",
        "status": 422,
        "errors": [{"pointer": "/base", "code": "unknown_field", "detail": "?"}],
    }

    def on_request(request: Handler) -> None:
        request.read()
        requested.append(request.path)
        if request.path.startswith("/jobs/train"):
            request.respond(422, unknown)
        else:
            request.respond(202, {"id": "new", "kind": "hpo", "state": "queued"})

    with serving(on_request) as client:
        given = [
            runner.invoke(app, ["--url", client.url, name, str(file), "--kind", "hpo"]) for name in ("plan", "submit")
        ]
        absent = [runner.invoke(app, ["--url", client.url, name, str(file)]) for name in ("plan", "submit")]
        wrong = runner.invoke(app, ["--url", client.url, "submit", str(file), "--kind", "trial"])
    assert [one.exit_code for one in given] == [0, 0]
    assert [(one.exit_code, "give --kind" in one.stderr) for one in absent] == [(2, True)] * 2
    assert requested == ["/jobs/hpo?dry_run=true", "/jobs/hpo", "/jobs/train?dry_run=true", "/jobs/train"]
    assert wrong.exit_code == 2
    assert "train, hpo, ensemble" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ('{"lr": 1e-05, "n": 3}', {"lr": 1e-05, "n": 3}),
        ('{\t"lr": 1e-05}', {"lr": 1e-05}),
        ("lr: 1e-05\nday: 2024-01-04\nversion: 1.2\nname: 1.2.3\nsome: [3e-5, .5, -1]", {
            "lr": 1e-05, "day": "2024-01-04", "version": 1.2, "name": "1.2.3", "some": [3e-05, 0.5, -1],
        }),
    ],
)  # fmt: skip
def test_yaml_scalars_are_read_as_in_json(text: str, body: object, tmp_path: Path) -> None:
    file = tmp_path / "spec"
    file.write_text(text)
    assert terminal.read_spec(file) == body


@pytest.mark.parametrize("text", [b"a: .nan", b"a: b\xe9", b"[1]", b"a: [", b'{"a": NaN}'])
def test_a_spec_that_json_cannot_represent_is_a_usage_error(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "spec"
    file.write_bytes(text)
    assert runner.invoke(app, ["--url", "http://127.0.0.1:9", "plan", str(file)]).exit_code == 2


def test_an_invalid_url_is_a_usage_error() -> None:
    assert runner.invoke(app, ["--url", "http://[::1", "ls"]).exit_code == 2


def test_names_with_brackets_are_shown_as_they_are_and_ids_whole() -> None:
    job = Job(
        id="019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21", kind="train", state="failed", name="a [/data] [lr=0.01]",
        message="wrong at [/data/window]",
    )  # fmt: skip
    for width in (80, 10_000):
        out = Console(width=width, file=StringIO(), force_terminal=False)
        out.print(jobs_table([job]), job_table(job))
        result = out.file.getvalue()  # type: ignore[attr-defined]
        assert job.id in result
        assert width == 80 or ("a [/data] [lr=0.01]" in result and "wrong at [/data/window]" in result)


def test_each_epoch_of_a_fold_or_member_prints_a_line() -> None:
    out = Console(width=200, file=StringIO(), force_terminal=False)
    values = {"val.2/rank_ic": 0.05, "train.2/loss": 0.5, "val.2/rank_ic@5d": 0.1}
    event = Event(kind="metrics", seq=1, body={"step": 3, "values": values})
    bar = Progress(console=out)
    display._show_event(event, bar, bar.add_task(""), out, "job", "val/rank_ic")
    assert "job  fold 2  epoch 3  train/loss 0.5000  val/rank_ic 0.0500" in out.file.getvalue()  # type: ignore[attr-defined]
