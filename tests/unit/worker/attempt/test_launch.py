import json
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from uuid import UUID

import pytest

from atft.checksums import sha256_of
from atft.spec.job import TrainSpec
from jobs.db.tables import Job, Json
from jobs.record.init_from import Weights
from jobs.settings import THREAD_VARIABLES, Settings
from jobs.states import JobKind, Reason
from worker.attempt.launch import LaunchRefused, newest_whole_checkpoint, prepare_launch
from worker.attempt.memory import count_oom_kills
from worker.commands import control_argv, worker_argv
from worker.slot import DeviceSlot

SPEC = TrainSpec(dataset="d").model_dump(mode="json")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(run_root=tmp_path / "runs", data_root=tmp_path / "data", lease_seconds=30)
    (settings.caches_root / "f00d").mkdir(parents=True)
    settings.data_root.mkdir()
    return settings


def job(**changes: object) -> Job:
    values = {
        "id": UUID(int=7),
        "attempt": 2,
        "kind": JobKind.TRAIN,
        "spec": SPEC,
        "overrides": {},
        "dataset": "d",
        "dataset_fingerprint": "f00d",
    }
    return Job(**(values | changes))


def test_a_training_run(settings: Settings) -> None:
    checkpoint = {"path": "1/checkpoints/000003", "step": 30, "epoch": 3, "sha256": "x"}
    start = prepare_launch(settings, job(checkpoint=checkpoint), cuda_device="1")
    folder = settings.jobs_root.resolve() / str(UUID(int=7)) / "2"
    assert start.folder == folder
    assert json.loads((folder / "spec.json").read_text()) == SPEC
    assert start.argv == (
        sys.executable, "-P", "-m", "atft", "run", f"{folder}/spec.json",
        "--cache", f"{settings.caches_root.resolve()}/f00d",
        "--out", str(folder), "--resume", f"{folder.parent}/1/checkpoints/000003", "--stored-baselines",
        "--lease-seconds", "30.0",
    )  # fmt: skip
    assert start.environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_preflight_and_one_of_an_earlier_version(settings: Settings) -> None:
    for spec, command in (({"base": SPEC, "points": {}}, ["preflight"]), (SPEC, ["run", "--preflight"])):
        start = prepare_launch(settings, job(kind=JobKind.PREFLIGHT, spec=spec), cuda_device=None)
        assert [word for word in start.argv if word in ("run", "preflight", "--preflight")] == command


def test_the_newest_checkpoint_whose_bytes_are_whole_is_resumed_from(settings: Settings) -> None:
    folder = settings.jobs_root / str(UUID(int=7)) / "1" / "checkpoints"
    found: Json | None = None
    for number in (2, 3):
        (folder / f"{number}").mkdir(parents=True)
        (folder / f"{number}" / "state.pt").write_bytes(b"%d" % number * 50)
        files = {"state.pt": {"sha256": sha256_of(folder / f"{number}" / "state.pt")}}
        manifest = folder / f"{number}" / "manifest.json"
        manifest.write_text(json.dumps({"files": files}))
        found = {"path": f"1/checkpoints/{number}", "sha256": sha256_of(manifest), "previous": found}
    assert found is not None
    assert newest_whole_checkpoint(settings, job(checkpoint=found)) == found
    (folder / "3" / "state.pt").write_bytes(b"3" * 49 + b"2")
    assert newest_whole_checkpoint(settings, job(checkpoint=found)) == found["previous"]
    manifest = folder / "2" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    assert newest_whole_checkpoint(settings, job(checkpoint=found)) is None
    shutil.rmtree(folder)
    assert newest_whole_checkpoint(settings, job(checkpoint=found)) is None


def test_launch_of_a_pretraining_and_of_a_training_from_it(settings: Settings) -> None:
    start = prepare_launch(settings, job(kind=JobKind.PRETRAIN), cuda_device=None)
    assert start.argv[4] == "pretrain"
    assert start.weights is None
    weights = Weights(folder=PurePosixPath("jobs/abc/1"), sha256={"best.safetensors": "ab12"}, task="masked")
    start = prepare_launch(settings, job(), cuda_device=None, weights=weights)
    assert start.argv[start.argv.index("--init-from") + 1] == f"{settings.run_root.resolve()}/jobs/abc/1"
    assert start.weights is weights


def test_an_ensemble_runs_with_what_its_base_asks_for(settings: Settings) -> None:
    base = {"resources": {"threads": 2, "device": "cpu"}, "trainer": {"timeout_seconds": 60}}
    start = prepare_launch(settings, job(kind=JobKind.ENSEMBLE, spec={"base": base, "seeds": [0, 1]}), cuda_device="1")
    assert start.argv[4] == "ensemble"
    assert "--stored-baselines" in start.argv
    assert (start.threads, start.timeout_seconds) == (2, 60)
    assert start.environment["CUDA_VISIBLE_DEVICES"] != "1"


def test_a_prediction(settings: Settings) -> None:
    spec = {"model": "m", "dataset": "d", "from_day": "2020-01-01", "to_day": "2020-02-01", "resources": {"threads": 2}}
    params = {"model": {"folder": "jobs/m/1", "sha256": "ab"}}
    prediction = job(kind=JobKind.PREDICT, spec=spec, params=params, overrides={"micro_batch_days": 3})
    with pytest.raises(LaunchRefused, match="train the model again"):
        prepare_launch(settings, prediction, cuda_device=None)
    (settings.run_root / "jobs" / "m" / "1").mkdir(parents=True)
    start = prepare_launch(settings, prediction, cuda_device=None)
    assert start.threads == 2
    assert start.argv[4:] == (
        "predict", f"{start.folder}/spec.json", "--cache", f"{settings.caches_root.resolve()}/f00d",
        "--out", str(start.folder), "--most-days", "3",
        "--model", f"{settings.run_root.resolve()}/jobs/m/1", "--weights-sha256", "ab", "--lease-seconds", "30.0",
    )  # fmt: skip


def test_a_program_that_reads_a_users_file_has_a_memory_limit(settings: Settings) -> None:
    build = prepare_launch(settings, job(kind=JobKind.DATASET, spec={"name": "d", "planted": {}}), cuda_device=None)
    assert build.memory_bytes is not None
    assert build.memory_bytes >= 4 << 30
    assert prepare_launch(settings, job(), cuda_device=None).memory_bytes is None


@pytest.mark.parametrize("threads", [1, 3])
def test_pain_01_every_thread_limit_is_set(settings: Settings, threads: int) -> None:
    spec = TrainSpec.model_validate({"dataset": "d", "resources": {"threads": threads}}).model_dump(mode="json")
    start = prepare_launch(settings, job(spec=spec), cuda_device=None)
    assert {start.environment[name] for name in THREAD_VARIABLES} == {str(threads)}
    assert start.threads == threads


def test_pain_02_inherited_thread_limits_are_overridden(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "128")
    monkeypatch.setenv("ATFT_DATABASE_URL", "postgresql://secret")
    start = prepare_launch(settings, job(), cuda_device=None)
    assert start.environment["OMP_NUM_THREADS"] == "1"
    assert "secret" not in " ".join(start.environment.values())


def test_a_cpu_run_sees_no_gpu(settings: Settings) -> None:
    spec = TrainSpec.model_validate({"dataset": "d", "resources": {"device": "cpu"}}).model_dump(mode="json")
    assert prepare_launch(settings, job(spec=spec), cuda_device="0").environment["CUDA_VISIBLE_DEVICES"] == ""


def test_a_dataset_gets_absolute_paths(settings: Settings) -> None:
    (settings.uploads_root / "u1").mkdir(parents=True)
    (settings.uploads_root / "u1" / "file.csv").write_text("x")
    (settings.data_root / "members.csv").write_text("x")
    spec = {"name": "d", "universe": {"file": "members.csv", "columns": {"code": "c"}}}
    files = {"panel": "upload:u1/file.csv", "universe": "data:members.csv"}
    start = prepare_launch(settings, job(kind=JobKind.DATASET, spec=spec, params={"files": files}), cuda_device="0")
    written = json.loads((start.folder / "spec.json").read_text())
    assert written["path"] == str(settings.uploads_root.resolve() / "u1" / "file.csv")
    assert written["universe"] == {"file": str(settings.data_root.resolve() / "members.csv"), "columns": {"code": "c"}}
    assert start.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert start.argv[4:6] == ("build", f"{start.folder}/spec.json")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset_fingerprint": "gone"}, Reason.DATA_CHANGED),
        ({"dataset_fingerprint": None}, Reason.DATA_CHANGED),
        ({"kind": JobKind.HPO}, Reason.INTERNAL),
        ({"kind": JobKind.DATASET, "spec": {"name": "d"}}, Reason.INVALID_PARAMS),
        (
            {"kind": JobKind.DATASET, "spec": {"name": "d"}, "params": {"files": {"panel": "data:../x"}}},
            Reason.INVALID_PARAMS,
        ),
        (
            {"kind": JobKind.DATASET, "spec": {"name": "d"}, "params": {"files": {"panel": "data:/etc/passwd"}}},
            Reason.INVALID_PARAMS,
        ),
        ({"kind": JobKind.DATASET, "spec": {"name": "d"}, "params": {"files": {"panel": "http://x"}}}, Reason.INTERNAL),
    ],
)
def test_a_job_that_cannot_start_has_a_reason(settings: Settings, changes: dict[str, object], reason: Reason) -> None:
    with pytest.raises(LaunchRefused) as refused:
        prepare_launch(settings, job(**changes), cuda_device=None)
    assert refused.value.reason is reason


def test_a_device_slot_is_identified_by_its_name() -> None:
    slot = DeviceSlot.parse("gpu-1@host-2.example")
    assert slot == DeviceSlot("gpu", 1, "host-2.example")
    assert (slot.name, slot.device, slot.cuda_device) == ("gpu-1@host-2.example", "cuda:1", "1")
    assert (DeviceSlot("cpu", 0, "h").device, DeviceSlot("cpu", 0, "h").cuda_device) == ("cpu", None)
    for name in ("celery@host", "gpu-x@h", "gpu-1"):
        with pytest.raises(ValueError, match="python -m worker"):
            DeviceSlot.parse(name)


def test_the_command_lines() -> None:
    argv = worker_argv(DeviceSlot("gpu", 1, "h"))
    assert argv[3:12] == ["-A", "worker.tasks", "worker", "-Q", "gpu", "-c", "1", "-n", "gpu-1@h"]
    assert "-B" not in argv
    assert "-B" in control_argv(DeviceSlot("control", 0, "h"))


def test_the_out_of_memory_counter_of_the_kernel_can_be_read() -> None:
    assert count_oom_kills() >= 0


@pytest.mark.parametrize(
    ("environment", "named"),
    [({}, "ATFT_DATABASE_URL"), ({"ATFT_DATABASE_URL": "postgresql://x"}, "ATFT_REDIS_URL")],
)
def test_a_worker_without_server_urls_exits_with_an_error(
    environment: dict[str, str], named: str, tmp_path: Path
) -> None:
    root = str(Path(__file__).parents[4])
    done = subprocess.run(
        [sys.executable, "-m", "worker"],
        env=environment | {"PYTHONPATH": root},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert named in done.stderr
