"""Creates `.venv` from pyproject.toml and constraints.txt. Standard library only, Python 3.11 to 3.13.

`setup.py demo|dev` installs, or does nothing when nothing changed since it last finished.
`setup.py lock` rewrites constraints.txt.
After an interrupted set-up, a moved checkout or a removed interpreter the environment is created again.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UNFINISHED = VENV / ".setup-unfinished"
LOG = ROOT / "var" / "setup.log"
LOCK = ROOT / "constraints.txt"
# pip chooses the build of torch (CPU or CUDA) and its dependencies; a pin would exclude one of them.
UNPINNED = ("torch", "triton", "nvidia-", "cuda-", "setuptools")
PINNED_ANYWAY = ("torch-geometric", "nvidia-ml-py")
PIP = ("-I", "-m", "pip", "--disable-pip-version-check", "--no-input")


def log(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def stamp(extras: str) -> tuple[Path, str]:
    """Stamp file of a finished set-up and its content: a hash of interpreter, checkout path and the two files."""
    files = [path.read_text() for path in (ROOT / "pyproject.toml", LOCK) if path.exists()]
    text = "\0".join([extras, sys.version, str(ROOT), *files])
    return VENV / f".setup-{extras}", hashlib.sha256(text.encode()).hexdigest()


def is_finished(extras: str) -> bool:
    path, text = stamp(extras)
    return PYTHON.exists() and path.exists() and path.read_text() == text


def run(command: list[str]) -> None:
    """Run a command with its output in the log; on failure print the end of the log and exit."""
    with LOG.open("a") as output:
        print("$", *command, file=output, flush=True)
        # pip inherits the lock: if this process is killed, the next set-up waits until pip has exited
        code = subprocess.call(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=ROOT, close_fds=False
        )
    if code:
        log(f"this failed ({code}): {' '.join(command)}\nThe end of {LOG}:")
        print("\n".join(LOG.read_text(errors="replace").splitlines()[-25:]), file=sys.stderr)
        raise SystemExit(1)


def venv_is_usable() -> bool:
    """Whether the interpreter of .venv runs, has this version, and its scripts refer to this path."""
    try:
        version = subprocess.check_output([PYTHON, "-I", "-c", "import sys; print(sys.version)"], text=True, timeout=60)
        return version == f"{sys.version}\n" and str(VENV) in (VENV / "bin" / "pip").read_text()
    except (OSError, subprocess.SubprocessError):
        return False


def install(extras: str) -> None:
    if is_finished(extras) or is_finished("dev"):  # dev contains demo
        return
    path, text = stamp(extras)
    groups = "demo,dev" if extras == "dev" else extras
    start = time.monotonic()
    LOG.write_text("")
    if UNFINISHED.exists() or not venv_is_usable():
        log(f"creating {VENV} with Python {sys.version.split()[0]}")
        shutil.rmtree(VENV, ignore_errors=True)
        run([sys.executable, "-I", "-m", "venv", str(VENV)])
    UNFINISHED.touch()
    path.unlink(missing_ok=True)
    log("installing the packages (once; one to two minutes)")
    constraints = ["-c", "constraints.txt"] if LOCK.exists() else []
    run([str(PYTHON), *PIP, "install", "--no-compile", "--prefer-binary", *constraints, "-e", f".[{groups}]"])
    path.write_text(text)
    UNFINISHED.unlink()
    log(f"done in {time.monotonic() - start:.0f} s")


def lock() -> None:
    """Resolve all dependencies within pyproject's ranges and write the pins; nothing is installed."""
    report = LOG.with_name("lock.json")
    install("dev")
    run([str(PYTHON), *PIP, "install", "--dry-run", "--ignore-installed", "--report", str(report), ".[demo,dev]"])
    packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    chosen = {package["name"].lower().replace("_", "-"): package["version"] for package in packages}
    pins = [
        f"{name}=={version}"
        for name, version in sorted(chosen.items())
        if name != "atft" and (name in PINNED_ANYWAY or not name.startswith(UNPINNED))
    ]
    head = (
        "# What `make lock` resolved with Python 3.11, for 3.11 to 3.13. torch and its CUDA packages are left to pip.\n"
    )
    LOCK.write_text(head + "\n".join(pins) + "\n")
    report.unlink()
    log(f"{LOCK.name}: {len(pins)} pins")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in {"demo", "dev", "lock"}:
        raise SystemExit("usage: setup.py demo|dev|lock")
    try:
        LOG.parent.mkdir(parents=True, exist_ok=True)
        with (LOG.parent / "setup.lock").open("w") as lock_file:
            os.set_inheritable(lock_file.fileno(), True)
            fcntl.flock(
                lock_file, fcntl.LOCK_EX
            )  # `make demo` and `make test` at the same time: one installs, one waits
            lock() if sys.argv[1] == "lock" else install(sys.argv[1])
    except PermissionError as error:
        raise SystemExit(f"setup: {error.filename} belongs to another user; use a checkout of your own") from error


if __name__ == "__main__":
    main()
