"""Third-party programs against the service: `make outside`.

openapi-python-client makes a client from the OpenAPI document, `mypy --strict` checks it, and it submits a job; the
real TensorBoard reads the event files that `atft tensorboard` writes. They are installed in a
separate environment, var/outside, on first use.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from uuid import UUID

import httpx

from benchmarks.bench_page import Service, running_service
from client.sdk.sync import Client
from tests.integration.api.application import register, run

HERE = Path(__file__).resolve().parent
ENV = HERE.parents[1] / "var" / "outside"
PACKAGES = ("openapi-python-client==0.29.1", "mypy>=2.4", "tensorboard>=2.20")


def environment() -> Path:
    programs = ENV / "bin"
    if not (ENV / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENV)], check=True)
        subprocess.run([str(programs / "pip"), "install", "--quiet", *PACKAGES], check=True)
        (ENV / "installed").touch()
    return programs


def output_of(command: list[str], folder: Path) -> str:
    """The output of a command run in `folder`. Exits when it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def generated_client(service: Service, folder: Path, programs: Path) -> UUID:
    """Generate a client, type-check it and submit a job with it. Returns the job's id."""
    document = folder / "openapi.json"
    document.write_bytes(httpx.get(f"{service.url}/openapi.json", timeout=60).content)  # the generator waits 5 s only
    config = folder / "config.yml"
    config.write_text("post_hooks: []\n")  # its linter's mends of its own code do not pass mypy
    command = [str(programs / "openapi-python-client"), "generate", "--path", str(document)]
    printed = output_of([*command, "--meta", "none", "--output-path", "generated", "--config", str(config)], folder)
    if "WARNING" in printed or "Unable to process" in printed:
        raise SystemExit(f"the generator left something out:\n{printed}")
    print(output_of([str(programs / "mypy"), "--strict", "generated"], folder).strip())
    return UUID(output_of([str(programs / "python"), str(HERE / "submit.py"), service.url], folder).strip())


def tensorboard(service: Service, job_id: UUID, folder: Path, programs: Path) -> None:
    atft = [sys.executable, "-m", "client.cli", "--url", service.url, "tensorboard", str(job_id), "--json"]
    [file] = json.loads(subprocess.run([*atft, "--to", str(folder)], capture_output=True, check=True).stdout)
    read = json.loads(output_of([str(programs / "python"), str(HERE / "read_events.py"), file], folder))
    with Client(service.url) as client:
        expected = client.metrics(str(job_id)).series
    for name, series in expected.items():
        assert read[name]["step"] == series.step, name
        for mine, other in zip(series.value, read[name]["value"], strict=True):
            assert (mine is None) == (other is None), name
            assert mine is None or abs(mine - other) <= 1e-6 * max(1.0, abs(mine)), name  # it keeps 32 bits
    assert set(read) == set(expected)
    print(f"TensorBoard read {len(read)} series, {sum(len(series['step']) for series in read.values())} points")


def main() -> None:
    programs = environment()
    with tempfile.TemporaryDirectory(prefix="atft-outside-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root the servers run as another user
        with running_service(folder) as service:
            register(service.sessions)
            job_id = generated_client(service, folder, programs)
            with Client(service.url) as client:
                job = client.job(str(job_id))
                assert (job.state, job.name, job.spec["data"]["window"]) == ("queued", "generated", 10), job
            print(f"the generated client submitted job {job_id}")
            run(service.sessions, job_id)
            tensorboard(service, job_id, folder, programs)


if __name__ == "__main__":
    main()
