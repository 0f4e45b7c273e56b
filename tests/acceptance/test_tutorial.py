"""The commands of the tutorial, run against a running service."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.acceptance.conftest import Up

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"


def test_the_tutorial_runs_from_top_to_bottom(up: Up, tmp_path: Path) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    environment = {**os.environ, "ATFT_URL": up.url, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch.optim.adamw.AdamW" in done.stdout
    assert "a fair comparison" in done.stdout
    assert re.search(r"insufficient evidence|is better than", done.stdout)
    assert "/data/window" in done.stderr
