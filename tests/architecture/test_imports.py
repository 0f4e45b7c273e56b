"""What each part loads when it is imported, seen from outside. The contracts are in `.importlinter` (`make check`)."""

import ast
import json
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torch_geometric", "adabelief_pytorch", "lightgbm", "optuna", "polars")


def loaded_by(*modules: str) -> set[str]:
    """Top-level packages and our own modules in a fresh interpreter after these imports."""
    program = f"import json, sys\nimport {', '.join(modules)}\nprint(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True, timeout=120
    )
    return set(json.loads(answer.stdout))


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (("api.app",), (*HEAVY, "worker", "atft.train", "atft.data", "atft.model")),
        (
            ("jobs.record.lifecycle", "jobs.broker.queue", "jobs.broker.pubsub"),
            (*HEAVY, "fastapi", "atft.train", "atft.data"),
        ),
        (
            ("worker.attempt.supervisor", "worker.upkeep.sweeper", "worker.attempt.child"),
            (*HEAVY, "api", "atft.train", "atft.data"),
        ),
        (("client.cli", "client.sdk"), (*HEAVY, "fastapi", "sqlalchemy", "jobs", "pyarrow")),
        (("atft", "atft.spec.job", "atft.spec.study", "atft.events"), (*HEAVY, "numpy", "sqlalchemy")),
        (("atft.data.cache.reader",), ("sqlalchemy", "fastapi", "celery", "redis")),
    ],
)
def test_importing_loads_nothing_it_must_not(modules: tuple[str, ...], absent: tuple[str, ...]) -> None:
    assert loaded_by(*modules) & set(absent) == set()


def test_the_top_package_of_the_library_is_empty() -> None:
    assert (ROOT / "atft" / "__init__.py").read_text() == ""


def test_every_package_is_found_for_installation() -> None:
    """A folder of modules without `__init__.py` would not be installed, nor one that `include` does not name."""
    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    tops = {pattern.rstrip("*") for pattern in include}
    folders = {path.parent.relative_to(ROOT) for top in tops for path in (ROOT / top).rglob("*.py")}
    assert {str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()} == set()
    assert {package.replace(".", "/") for package in find_packages(ROOT, include=include)} == set(map(str, folders))


def test_every_package_has_contracts() -> None:
    contracts = ConfigParser()
    contracts.read(ROOT / ".importlinter")
    roots = set(contracts["importlinter"]["root_packages"].split())
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests", "benchmarks"} == roots


OWNERS = {
    "optuna": {
        *(f"worker/studies/{name}.py" for name in ("advance", "failures", "plots", "samplers")),
        "worker/tasks.py",
    },
    "lightgbm": {"atft/train/trees.py"},
    "statsmodels": {"atft/metrics/inference.py"},
    "arch": {"atft/metrics/inference.py"},
    "skfolio": set(),
}


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_with_one_owner_is_imported_there_only(library: str) -> None:
    users = set()
    for top in ("api", "atft", "client", "jobs", "worker"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
                if any(name.partition(".")[0] == library for name in names):
                    users.add(path.relative_to(ROOT).as_posix())
    assert users <= OWNERS[library]


def test_polars_stays_where_files_are_read() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "atft").rglob("*.py")
        if "import polars" in path.read_text()
    }
    assert all(user.startswith("atft/data/") for user in users)
