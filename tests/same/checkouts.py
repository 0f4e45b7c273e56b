"""One checkout of the product: its own interpreter, a clean environment, its programs and its service."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("api", "atft", "client", "jobs", "migrations", "worker")
KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LD_LIBRARY_PATH")
THREADS: Final = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS", "ARROW_NUM_THREADS", "ARROW_IO_THREADS",
)  # fmt: skip
PROBE: Final = """
import importlib.metadata, importlib.util, json, sys
def places(name):
    spec = importlib.util.find_spec(name)
    return [] if spec is None else list(spec.submodule_search_locations or [spec.origin])
versions = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
print(json.dumps({"packages": {name: places(name) for name in sys.argv[1:]}, "versions": versions}))
"""
STOP_SECONDS: Final = 60.0
PROGRAM_SECONDS: Final = 600.0


class CheckoutError(Exception):
    """A checkout could not be used, or a program of it did not succeed: there is nothing to compare."""


@dataclass
class Checkout:
    """`name` is "before" or "after", `root` the checkout's folder, `work` an empty folder for all that it writes."""

    name: str
    root: Path
    work: Path
    versions: dict[str, str] = field(default_factory=dict)
    commits: set[str] = field(default_factory=set)  # those that the evidence of its runs names

    @property
    def python(self) -> Path:
        """The interpreter of the checkout's own virtual environment."""
        return self.root / ".venv" / "bin" / "python"

    def environment(self) -> dict[str, str]:
        """Variables for every program: nothing that changes what is imported, one thread, bytecode in `work`."""
        scratch = self.work / "tmp"
        scratch.mkdir(exist_ok=True)
        return {name: value for name, value in os.environ.items() if name in KEPT} | {
            **dict.fromkeys(THREADS, "1"),
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONHASHSEED": "0",
            "PYTHONPYCACHEPREFIX": str(self.work / "pycache"),
            "TMPDIR": str(scratch),
        }

    def verify(self) -> None:
        """Raises CheckoutError unless each package of the product is imported from this checkout, also elsewhere."""
        script = self.root / ".venv" / "bin" / "atft"
        for path in (self.python, script):
            if not path.is_file():
                raise CheckoutError(f"{self.name}: {path} is not there: run `make setup-dev` in {self.root}")
        if str(self.python.parent) not in script.read_bytes()[:500].decode(errors="replace"):
            raise CheckoutError(f"{self.name}: {script} starts another interpreter than {self.python}")
        for folder in (self.root, self.work):
            found = self._probe(folder)
            self.versions = found["versions"]
            for package, places in found["packages"].items():
                if not places or not all(Path(place).resolve().is_relative_to(self.root) for place in places):
                    raise CheckoutError(f"{self.name}: in {folder} `import {package}` takes {places or 'nothing'}")

    def note_commit(self, evidence: dict[str, Any]) -> None:
        """Remember the commit that a run's evidence names."""
        self.commits.add(str((evidence.get("git") or {}).get("sha")))

    def _probe(self, folder: Path) -> dict[str, Any]:
        done = self.run([str(self.python), "-c", PROBE, *PACKAGES], folder)
        body: dict[str, Any] = json.loads(done.stdout)
        return body

    def run(self, command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        """The finished program, run in `folder` (default: the checkout). Raises CheckoutError when it fails."""
        done = subprocess.run(
            command,
            cwd=folder or self.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=PROGRAM_SECONDS,
        )
        if done.returncode:
            said = f"{done.stdout.decode()[-1500:]}\n{done.stderr.decode()[-3000:]}"
            raise CheckoutError(f"{self.name}: {' '.join(command)} ended with {done.returncode}:\n{said}")
        return done

    @contextlib.contextmanager
    def service(self) -> Iterator[str]:
        """The URL of this checkout's `atft up` with embedded servers and one worker on the CPU."""
        var = self.work / "var"
        var.mkdir()
        var.chmod(0o755)  # as root the servers run as another user
        script = str(self.root / ".venv" / "bin" / "atft")
        command = [script, "up", "--var", str(var), "--port", "0", "--workers", "1", "--gpus", "0"]
        log = self.work / "up.log"
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                command, cwd=self.root, env=self.environment(), stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process,
        ):
            try:
                assert process.stdout is not None
                line = process.stdout.readline()  # `atft up` gives up by itself when it does not get ready
                if not line.startswith("ready "):
                    raise CheckoutError(f"{self.name}: `atft up` did not start:\n{log.read_text()[-3000:]}")
                yield line.split()[1]
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(STOP_SECONDS)
