"""A short run of `make chaos`."""

import json
import subprocess
import sys
from pathlib import Path

from tests.chaos.service import ROOT


def test_guarantees_hold_under_faults(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.chaos", "--minutes", "0.6", "--width", "2", "--out", str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=480, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["kills"] >= 4, done.stdout
    assert (found["lost"], found["duplicates"], found["broken"]) == (0, 0, [])
