"""Fuzz test of the API: `python -m tests.fuzz` runs schemathesis on every operation of the OpenAPI document against a
real server, without keys and then with one. No response may be a 5xx or violate the document.

Event and log streams are excluded, since they stay open; they have tests of their own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import psycopg

from atft.spec.job import TrainSpec
from jobs.access import keys
from jobs.db.migrate import migrate
from jobs.db.session import sync_engine, sync_sessions, transaction
from jobs.embedded import servers as embedded
from jobs.record import submission
from jobs.settings import Settings
from jobs.states import JobKind
from tests.integration.api.application import SPEC, register, run
from tests.integration.api.test_server import serving

# Not `positive_data_acceptance`: a valid spec may name an unknown dataset. Not `unsupported_method`: it expects 405 for
# GET /jobs/train, which is GET /jobs/{id} with an unknown id.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "use_after_free",
)
STREAMS = r"(/events|/logs)$"
PHASES = "examples,coverage,fuzzing,stateful"


@dataclass(frozen=True)
class FuzzResult:
    """The exit code of schemathesis and the number of generated cases."""

    code: int
    cases: int


def fuzz(
    settings: Settings,
    key: str | None,
    examples: int,
    phases: str = PHASES,
    seed: int = 1,
    seconds: float | None = None,
) -> FuzzResult:
    """Run schemathesis against a database with a dataset and a finished job. With `seconds` it generates cases until
    they are over; else it ends after `examples` of each operation and phase.
    """
    engine = sync_engine(settings)
    sessions = sync_sessions(engine)
    register(sessions)
    spec = TrainSpec.model_validate(SPEC)
    with transaction(sessions) as session:
        body = spec.model_dump(mode="json")
        digest = spec.digest()
        submission_result = submission.submit(
            session, submission.NewJob(kind=JobKind.TRAIN, spec=body, spec_digest=digest, queue="cpu", dataset="small")
        )
        job: UUID = submission_result.job.id
    run(sessions, job)
    engine.dispose()
    settings.run_root.mkdir(parents=True, exist_ok=True)  # schemathesis writes into its working directory
    report = settings.run_root / "fuzz.json"
    with serving(settings) as server:
        httpx.get(
            f"{server.url}/openapi.json", timeout=120
        ).raise_for_status()  # the first request builds the document, which takes longer than schemathesis waits
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json",
            "--checks", ",".join(CHECKS), "--exclude-path-regex", STREAMS, "--phases", phases,
            "--max-examples", str(examples), "--seed", str(seed), "--request-timeout", "170",
            "--suppress-health-check", "all", "--warnings", "off", "--no-color", "--generation-database", "none",
            "--report-json-path", str(report),
        ]  # fmt: skip
        if key is not None:
            command[command.index("--checks") + 1] += ",ignored_auth"
            command += ["--header", f"Authorization:Bearer {key}"]
        else:  # the first key turns authentication on for the rest of the run
            command += ["--exclude-name", "POST /keys"]
        if seconds is not None:
            command += ["--max-time", str(max(1, int(seconds)))]
        code = subprocess.run(command, check=False, cwd=settings.run_root).returncode
    return FuzzResult(code, json.loads(report.read_text())["test_cases"]["generated"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=30, help="cases of each operation and phase, at most")
    parser.add_argument("--minutes", type=float, help="for both runs together: cases are generated until then")
    parser.add_argument("--least", type=int, default=0, help="fail with fewer cases than this")
    parser.add_argument("--phases", default=PHASES)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    results = []
    with tempfile.TemporaryDirectory(prefix="atft-fuzz-") as var:
        Path(var).chmod(0o755)
        with embedded.start(Path(var), postgres_options=("-c", "fsync=off")) as servers:
            for keyed in (False, True):
                name = f"fuzz{int(keyed)}"
                settings = _database(servers, Path(var), name)
                key = _admin_key(settings) if keyed else None
                seconds = None if end is None else (end - time.monotonic()) / (1 if keyed else 2)
                result = fuzz(settings, key, options.examples, options.phases, options.seed, seconds)
                print(f"{result.cases} cases {'with' if keyed else 'without'} a key, exit code {result.code}")
                results.append(result)
    cases, code = sum(result.cases for result in results), max(result.code for result in results)
    print(f"{cases} cases in all" + (f", fewer than {options.least}" if cases < options.least else ""))
    return code or int(cases < options.least)


def _database(servers: embedded.EmbeddedServers, var: Path, name: str) -> Settings:
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    url = urlsplit(servers.database_url)._replace(path=f"/{name}").geturl()
    data = var / f"data-{name}"
    data.mkdir()
    settings = Settings(database_url=url, redis_url=servers.redis_url, data_root=data, run_root=var / f"runs-{name}")
    migrate(settings)
    return settings


def _admin_key(settings: Settings) -> str:
    engine = sync_engine(settings)
    with transaction(sync_sessions(engine)) as session:
        _, key = keys.create(session, name="fuzz", scopes=["admin"])
    engine.dispose()
    return key


if __name__ == "__main__":
    sys.exit(main())
