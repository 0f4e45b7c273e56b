"""Files stay small, and no drawer opens."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("api", "atft", "benchmarks", "client", "jobs", "migrations", "tests", "worker")
FILES = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MOST_LINES = 400
TOPS = ("api", "atft", "client", "jobs", "migrations", "worker")
DRAWERS = {"utils", "util", "common", "helpers", "helper", "manager", "managers", "misc"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_have_at_most_400_lines(folder: str) -> None:
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in FILES if name.startswith(f"{folder}/")}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_lines_of_the_page_scripts_have_at_most_120_characters() -> None:
    scripts = [*(ROOT / "api/web/static").glob("*.js"), *(ROOT / "tests/web").glob("*.js")]
    assert scripts
    lines = {f"{path.name}:{n}": line for path in scripts for n, line in enumerate(path.read_text().splitlines(), 1)}
    assert [place for place, line in lines.items() if len(line) > 120] == []  # prettier breaks no text


def test_no_file_or_folder_is_a_drawer() -> None:
    assert [name for name in FILES if DRAWERS & set(Path(name).with_suffix("").parts)] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [name for name in FILES if not name.startswith(("tests/", "migrations/versions")) and not documented(name)]
    assert silent == []


def documented(name: str) -> bool:
    text = (ROOT / name).read_text()
    return not text.strip() or text.startswith(('"""', "'''", "#!"))


def test_the_main_documents_are_there() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "constraints.txt", "docs/architecture.md"):
        assert (ROOT / name).stat().st_size > 0, name
    assert len((ROOT / "README.md").read_text().splitlines()) <= 70  # one screen


def test_the_lock_pins_no_build_of_torch() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert not [pin for pin in pins if pin.startswith(("torch=", "triton", "nvidia-cu")) or "+" in pin]


def test_the_architecture_page_names_every_folder_and_only_what_is_there() -> None:
    named = set(re.findall(r"`([a-z_]+/[a-z_/.]*)`", (ROOT / "docs" / "architecture.md").read_text()))
    assert [name for name in sorted(named) if not (ROOT / name).exists() and name.partition("/")[0] in TOPS] == []
    folders = {f"{path.parent.relative_to(ROOT)}/" for top in TOPS for path in (ROOT / top).rglob("*.py")}
    assert folders - named - {"migrations/versions/"} == set()
