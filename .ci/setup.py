"""Make `.venv` what pyproject.toml and constraints.txt say, once. Standard library only, Python 3.11 to 3.13.

`setup.py demo|dev` installs, or does nothing when nothing changed since it last finished.
`setup.py lock` rewrites constraints.txt.
An interrupted set-up, a moved checkout or a vanished interpreter is noticed and the environment is made anew.
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
# pip chooses torch and what that build of it needs: a CPU build here, a CUDA build there; a pin would refuse one.
UNPINNED = ("torch", "triton", "nvidia-", "cuda-", "setuptools")
PINNED_ANYWAY = ("torch-geometric", "nvidia-ml-py")
PIP = ("-I", "-m", "pip", "--disable-pip-version-check", "--no-input")


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def stamp(extras: str) -> tuple[Path, str]:
    """Where a finished set-up is noted, and as what: the interpreter, the checkout's place, the two files."""
    files = [path.read_text() for path in (ROOT / "pyproject.toml", LOCK) if path.exists()]
    text = "\0".join([extras, sys.version, str(ROOT), *files])
    return VENV / f".setup-{extras}", hashlib.sha256(text.encode()).hexdigest()


def finished(extras: str) -> bool:
    path, text = stamp(extras)
    return PYTHON.exists() and path.exists() and path.read_text() == text


def run(command: list[str]) -> None:
    """Quietly; on failure the log's end is shown and the set-up ends."""
    with LOG.open("a") as log:
        print("$", *command, file=log, flush=True)
        # the lock goes with it: should we be killed, the next set-up waits until this one's pip has ended
        code = subprocess.call(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, close_fds=False)
    if code:
        say(f"this failed ({code}): {' '.join(command)}\nThe end of {LOG}:")
        print("\n".join(LOG.read_text(errors="replace").splitlines()[-25:]), file=sys.stderr)
        raise SystemExit(1)


def usable() -> bool:
    """The interpreter of .venv runs, is this Python, and its scripts were written for this place."""
    try:
        version = subprocess.check_output([PYTHON, "-I", "-c", "import sys; print(sys.version)"], text=True, timeout=60)
        return version == f"{sys.version}\n" and str(VENV) in (VENV / "bin" / "pip").read_text()
    except (OSError, subprocess.SubprocessError):
        return False


def install(extras: str) -> None:
    if finished(extras) or finished("dev"):  # dev contains demo
        return
    path, text = stamp(extras)
    wanted = "demo,dev" if extras == "dev" else extras
    start = time.monotonic()
    LOG.write_text("")
    if UNFINISHED.exists() or not usable():
        say(f"making {VENV} with Python {sys.version.split()[0]}")
        shutil.rmtree(VENV, ignore_errors=True)
        run([sys.executable, "-I", "-m", "venv", str(VENV)])
    UNFINISHED.touch()
    path.unlink(missing_ok=True)
    say("installing the packages (once; one to two minutes)")
    constraints = ["-c", "constraints.txt"] if LOCK.exists() else []
    run([str(PYTHON), *PIP, "install", "--no-compile", "--prefer-binary", *constraints, "-e", f".[{wanted}]"])
    path.write_text(text)
    UNFINISHED.unlink()
    say(f"done in {time.monotonic() - start:.0f} s")


def lock() -> None:
    """Resolve everything anew, within pyproject's ranges, and pin what was chosen; nothing is installed."""
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
    say(f"{LOCK.name}: {len(pins)} pins")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in {"demo", "dev", "lock"}:
        raise SystemExit("usage: setup.py demo|dev|lock")
    try:
        LOG.parent.mkdir(parents=True, exist_ok=True)
        with (LOG.parent / "setup.lock").open("w") as held:
            os.set_inheritable(held.fileno(), True)
            fcntl.flock(held, fcntl.LOCK_EX)  # `make demo` and `make test` at the same time: one installs, one waits
            lock() if sys.argv[1] == "lock" else install(sys.argv[1])
    except PermissionError as error:
        raise SystemExit(f"setup: {error.filename} belongs to another user; use a checkout of your own") from error


if __name__ == "__main__":
    main()
