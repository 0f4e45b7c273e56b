"""docker-compose.yml as the real Compose reads it: a program that needs no container engine to do that."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "ATFT_ADMIN_KEY")


def config(variables: Mapping[str, str], *arguments: str, profile: str = "") -> subprocess.CompletedProcess[str]:
    """`docker compose config` with these variables and no others: neither the shell's nor those of an .env here."""
    program = [str(BIN / "docker-compose"), "--file", str(ROOT / "docker-compose.yml"), "--env-file", "/dev/null"]
    profiles = ["--profile", profile] if profile else []
    return subprocess.run(
        [*program, *profiles, "config", *arguments],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def services(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Every service, as it would be started. Compose doubles each $ in what it prints."""
    answer = config(variables, "--format", "json", profile="gpu")
    assert answer.returncode == 0, answer.stderr
    found: dict[str, dict[str, Any]] = json.loads(answer.stdout.replace("$$", "$"))["services"]
    return found
