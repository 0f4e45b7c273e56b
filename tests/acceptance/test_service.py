"""The service end to end: submit, stream, read, cancel; and equal numbers when processes are killed meanwhile."""

import json
import os
import re
import subprocess
import sys
import uuid
from datetime import date, timedelta
from itertools import accumulate
from pathlib import Path
from random import Random

import httpx
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from client.sdk.models import Job, Metrics
from client.sdk.sync import Client, Refused
from tests.acceptance.conftest import TRAIN, Up, wait_for

pytestmark = pytest.mark.usefixtures("panel")
VICTIMS = {
    "child": ("atft", "run"),
    "worker": ("celery", "cpu-0@"),
    "valkey": ("valkey-server",),
    "postgres": ("bin/postgres",),
}


@pytest.fixture(scope="module")
def undisturbed(service: Client, panel: str) -> Job:
    job = service.wait(service.submit("train", TRAIN).id, 200)
    assert job.state == "succeeded", job
    return job


def comparable(found: Metrics) -> dict[str, object]:
    """The series that must be equal: all but times and system loads."""
    machine = re.compile(r"(system|time)/|.*/samples_per_second$")
    return {name: series.model_dump() for name, series in found.series.items() if not machine.match(name)}


def test_a_training_job_has_metrics_and_evidence(service: Client, undisturbed: Job) -> None:
    found = service.metrics(undisturbed.id)
    assert found.series["val/rank_ic"].step == [1, 2, 3, 4]
    assert {f"test/rank_ic@{h}d" for h in (1, 5)} <= set(found.latest)
    evidence = service.evidence(undisturbed.id)
    optimizer = evidence["optimizer"]
    assert isinstance(optimizer, dict)
    assert "AdaBelief" in str(optimizer["class"])
    assert {"exp_avg", "exp_avg_var"} <= set(optimizer["state_keys"])  # type: ignore[arg-type]  # a list of names
    threads = evidence["threads"]
    assert isinstance(threads, dict)
    assert threads["torch_num_threads"] == threads["limit"] == 1


def test_a_prediction_equals_the_evaluation_bit_for_bit(service: Client, undisturbed: Job, tmp_path: Path) -> None:
    own, found = tmp_path / "own.parquet", tmp_path / "found.parquet"
    service.download(f"/jobs/{undisturbed.id}/artifacts/predictions.parquet", own)
    expected = pq.read_table(own).filter(pc.field("split") == "test").drop(["split"])
    span = {"from_day": str(expected["date"][3].as_py()), "to_day": str(expected["date"][-1].as_py())}
    job = service.predict({"model": undisturbed.id, "dataset": "panel", **span}).wait(120)
    assert job.state == "succeeded", job
    service.download(f"/jobs/{job.id}/artifacts/predictions.parquet", found)
    scores = pq.read_table(found).filter(pc.field("score_1d").is_valid())
    assert scores.to_pylist() == expected.to_pylist()
    model = job.evidence()["model"]
    assert isinstance(model, dict)
    weights = next(file for file in service.artifacts(undisturbed.id) if file["name"] == "best.safetensors")
    assert model["sha256"] == weights["sha256"]


def test_event_numbers_have_no_gaps_and_the_stream_ends(service: Client, undisturbed: Job) -> None:
    events = [event for event in service.events(undisturbed.id) if event.kind != "progress"]
    durable = [event.seq for event in events if event.kind != "end"]
    assert durable == list(range(1, len(durable) + 1))
    assert events[-1].kind == "end"
    half = len(durable) // 2
    rest = [event.seq for event in service.events(undisturbed.id, after=half) if event.kind not in ("progress", "end")]
    assert rest == durable[half:]


def test_g2_the_same_key_and_body_is_one_job(service: Client) -> None:
    key = str(uuid.uuid4())
    spec = TRAIN | {"trainer": {"max_epochs": 1, "batch_size": 80}}
    assert (
        service.submit("train", spec, idempotency_key=key).id == service.submit("train", spec, idempotency_key=key).id
    )
    with pytest.raises(Refused) as caught:
        service.submit("train", spec | {"seed": 7}, idempotency_key=key)
    assert caught.value.status == 422


def test_g6_cancel_ends_the_processes_of_a_job(service: Client, up: Up) -> None:
    job = service.submit("train", TRAIN | {"trainer": {"max_epochs": 500, "batch_size": 80, "early_stopping": None}})
    wait_for("training", lambda: (found := service.job(job.id).progress) and found.phase == "train")
    [child] = up.find("atft", "run", job.id)
    service.cancel(job.id)
    ended = service.wait(job.id, 25)
    assert (ended.state, ended.reason) == ("cancelled", "user")
    assert not child.is_running()


@pytest.mark.parametrize("victim", VICTIMS)
def test_g4_a_killed_process_changes_no_result(service: Client, up: Up, undisturbed: Job, victim: str) -> None:
    job = service.submit("train", TRAIN)
    wait_for("the second epoch", lambda: "val/rank_ic" in (service.job(job.id).latest or {}), 180)
    up.kill(*VICTIMS[victim])
    ended = service.wait(job.id, 150)
    assert ended.state == "succeeded", ended
    assert ended.attempt == (2 if victim in ("child", "worker") else 1)
    assert comparable(service.metrics(job.id)) == comparable(service.metrics(undisturbed.id))


def test_g1_an_accepted_job_outlives_the_api(service: Client, up: Up) -> None:
    job = service.submit("train", TRAIN | {"trainer": {"max_epochs": 1, "batch_size": 80}})
    up.kill("uvicorn")
    assert service.wait(job.id, 90).state == "succeeded"


def prices(folder: Path, bad: str) -> Path:
    """Twelve random walks; `bad` replaces one close."""
    days = [date(2020, 1, 6) + timedelta(weeks=i // 5, days=i % 5) for i in range(320)]
    steps = Random(1)
    rows = ["date,code,close"]
    for code in range(12):
        closes = list(
            accumulate((steps.gauss(0, 0.02) for _ in days), lambda close, step: close * (1 + step), initial=50)
        )
        rows += [f"{day},C{code:02},{close:.4f}" for day, close in zip(days, closes, strict=False)]
    if bad:
        rows[100] = f"{rows[100].rpartition(',')[0]},{bad}"
    file = folder / "own.csv"
    file.write_text("\n".join(rows))
    return file


@pytest.mark.parametrize(("bad", "code"), [("", 0), ("-7.25", 1)])
def test_the_demo_accepts_your_own_prices(up: Up, tmp_path: Path, bad: str, code: int) -> None:
    command = [sys.executable, "-m", "client.demo", "--url", up.url, "--var", str(tmp_path), "--trials", "0"]
    environment = os.environ | {"ATFT_DEMO_PRICES": str(prices(tmp_path, bad))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    if code:
        assert "-7.25" in done.stdout
        assert "Traceback" not in done.stderr
    else:
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["finite"]
        assert set(summary["baselines"]) == {"zero", "last_return", "ridge", "ridge_lags", "linear_ard", "lightgbm"}


def test_the_page_and_the_documentation_load_nothing_from_other_origins(up: Up) -> None:
    with httpx.Client(base_url=up.url, trust_env=False) as http:
        for path in ("/", "/docs"):
            response = http.get(path)
            assert response.status_code == 200
            assert re.findall(r"(?:src|href)=[\"'](?:https?:)?//[^\"']+", response.text) == []
        for path in re.findall(r"(?:src|href)=[\"'](/[^\"']+)", http.get("/").text + http.get("/docs").text):
            assert http.get(path).status_code == 200, path
        assert http.get("/openapi.json").json()["openapi"].startswith("3.1")
