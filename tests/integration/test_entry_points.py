"""What others start or import by name: each from a checkout, and from a wheel that is installed elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("worker", "jobs.admin", "jobs.embedded", "client.cli", "client.demo", "atft")
IMPORTS = """
import importlib, pathlib, sys
from uvicorn.importer import import_from_string
root = pathlib.Path(sys.argv[1])
names = "worker.tasks api.app client.sdk atft.spec atft.events migrations jobs.embedded client.demo".split()
for name in names:
    module = importlib.import_module(name)
    assert pathlib.Path(module.__file__).is_relative_to(root), (name, module.__file__)
from client.sdk import AsyncClient, Client
from worker.tasks import run_job, advance_study, sweep
for name in ("api.app:create_app", "api.http.graceful:GracefulHttpProtocol"):
    import_from_string(name)
for file in ("api/web/templates/base.html", "api/web/static/page.css", "migrations/script.py.mako"):
    assert (root / file).is_file(), file
print("imported", len(names))
"""


@pytest.fixture(scope="module", params=["checkout", "wheel"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the packages are imported from."""
    if request.param == "checkout":
        return ROOT
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build writes beside what it builds
    files = subprocess.check_output(["git", "-C", ROOT, "ls-files"], text=True).splitlines()
    for file in files:
        if file.partition("/")[0] in ("tests", "benchmarks", "docs") or not (ROOT / file).is_file():
            continue
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, source / file)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source], check=True, timeout=300
    )
    (wheel,) = folder.glob("atft-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, timeout=300)
    return folder / "site"


def start(root: Path, cwd: Path, *arguments: str | Path) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ATFT_", "PYTHON"))}
    return subprocess.Popen(
        arguments, cwd=cwd, env={**environment, "PYTHONPATH": str(root)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_every_entry_point_starts(root: Path, tmp_path: Path) -> None:
    started = {name: start(root, tmp_path, sys.executable, "-m", name, "--help") for name in PROGRAMS}
    started["imports"] = start(root, tmp_path, sys.executable, "-c", IMPORTS, root)
    script = Path(sys.executable).with_name("atft") if root == ROOT else root / "bin" / "atft"
    started["atft script"] = start(root, tmp_path, sys.executable, script, "--help")
    output = {name: process.communicate(timeout=300)[0] for name, process in started.items()}
    assert {name: output[name][-2000:] for name, process in started.items() if process.returncode != 0} == {}
    assert "imported 8" in output["imports"]
    assert "hpo" in output["atft script"]
