"""The demo's study and comparison at a small size, and the output of the commands."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from client.demo.study import Json, run_study
from client.sdk.sync import Client
from tests.acceptance.conftest import Up

PANEL: Json = {"num_codes": 20, "num_days": 160, "num_features": 6, "signal": 0.5, "mode": "full", "seed": 1}
SPLIT: Json = {"val_days": 20, "test_days": 40, "embargo_days": 11}


def test_demo_study_promotes_the_best_trial_twice_and_compares(service: Client, up: Up, tmp_path: Path) -> None:
    text = io.StringIO()
    summary, passed = run_study(service, Console(file=text, width=200), panel=PANEL, split=SPLIT, num_trials=3)
    assert passed, text.getvalue()
    study, comparison, shares = summary["study"], summary["comparison"], summary["oracle_share"]
    assert isinstance(study, dict)
    assert isinstance(comparison, dict)
    assert isinstance(shares, dict)
    assert (study["n"], study["succeeded"], study["failed"]) == (3, 3, 0)  # the pruner waits for five
    assert comparison["differences"] == {"optimizer.name": ["adabelief", "adamw"]}
    assert comparison["fair"]
    assert all(isinstance(share, float) and math.isfinite(share) for share in shares.values())
    assert "3/3  trial" in text.getvalue()
    assert "Verdict: " in text.getvalue()

    def atft(*arguments: str) -> str:
        command = [sys.executable, "-m", "client.cli", "--url", up.url, *arguments]
        return subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=60, check=True).stdout

    study_id = str(study["job_id"])
    trials = json.loads(atft("trials", study_id, "--json"))
    best = json.loads(atft("best", study_id, "--json"))
    assert best["number"] == max(trials, key=lambda trial: trial["value"])["number"]
    assert json.loads(atft("watch", study_id, "--json"))["state"] == "succeeded"
