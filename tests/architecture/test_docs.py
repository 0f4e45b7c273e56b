"""The documentation site builds without a warning: no dead link, no page that nothing leads to."""

import os
import re
import subprocess
from pathlib import Path

from tests.compose import BIN, ROOT

LOADED = re.compile(r"<(?:script|link|img)[^>]*(?:src|href)=[\"']?([^\"' >]+)")
PAGES = ("index.html", "tutorial.html", "reference/specs.html", "reference/http.html", "reference/events.html")


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in PAGES:
        assert (tmp_path / "site" / page).stat().st_size > 0, page
    specs = (tmp_path / "site" / "reference" / "specs.html").read_text()
    assert "stochastic_depth" in specs
    assert "early_stopping" in specs
    loaded = [tag for page in PAGES for tag in LOADED.findall((tmp_path / "site" / page).read_text())]
    assert loaded
    assert [tag for tag in loaded if "//" in tag] == []  # nothing leaves the origin


def test_the_security_page_names_tests_that_are_there() -> None:
    named = set(re.findall(r"`(test_\w+(?:\.py)?)`", (ROOT / "docs" / "security.md").read_text()))
    files = list((ROOT / "tests").rglob("test_*.py"))
    there = {file.name for file in files}
    there |= {name for file in files for name in re.findall(r"def (test_\w+)\(", file.read_text())}
    assert len(named) > 30
    assert named - there == set()
