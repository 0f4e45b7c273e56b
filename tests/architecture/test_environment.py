"""One reader of the environment: jobs/settings.py. The command line's `envvar`s aside, nobody else looks."""

import ast
from pathlib import Path

import pytest

from jobs.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
READER = "jobs/settings.py"
WITNESS = "atft/train/seed.py"  # notes the thread variables in the evidence, and obeys none
GIVER = "atft/fork_server.py"  # sets a forked child's TMPDIR, as an exec would have
READS = {"environ", "environb", "getenv", "getenvb"}
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for top in ("api", "atft", "client", "jobs", "migrations", "worker")
    for path in (ROOT / top).rglob("*.py")
)


def reads(name: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        attribute = (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
            and node.attr in READS
        )
        imported = (
            isinstance(node, ast.ImportFrom) and node.module == "os" and READS & {alias.name for alias in node.names}
        )
        if attribute or imported:
            found.append(f"{name}:{node.lineno}")
    return found


def test_pain_02_nobody_reads_the_environment_but_the_settings() -> None:
    assert [place for name in FILES if name not in (READER, WITNESS, GIVER) for place in reads(name)] == []


def test_the_reader_reads_and_the_witness_looks_once() -> None:
    assert reads(READER)
    assert len(reads(WITNESS)) == 1


@pytest.mark.parametrize("folder", ["atft", "worker", "api", "jobs"])
def test_envvars_belong_to_the_command_line(folder: str) -> None:
    assert [name for name in FILES if name.startswith(f"{folder}/") and "envvar=" in (ROOT / name).read_text()] == []


def test_every_setting_is_documented() -> None:
    """Nobody must read the code to find a variable."""
    text = (ROOT / "docs" / "settings.md").read_text()
    assert [name for name in Settings.model_fields if f"`ATFT_{name.upper()}`" not in text] == []
