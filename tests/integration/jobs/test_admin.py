"""The operator's commands as programs, and API keys in the record."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.access import keys
from jobs.db.session import transaction
from jobs.errors import Invalid, KeyNotFound
from jobs.ops import doctor
from jobs.settings import Settings

ROOT = Path(__file__).parents[3]


def _run(settings: Settings, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
        "PYTHONPATH": str(ROOT),
        "ATFT_DATABASE_URL": settings.database_url.get_secret_value(),
        "ATFT_REDIS_URL": settings.redis_url.get_secret_value(),
        "ATFT_RUN_ROOT": str(settings.run_root),
    }
    command = [sys.executable, "-m", "jobs.admin", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_key_lives_from_create_to_revoke(settings: Settings, sessions: sessionmaker[Session], tmp_path: Path) -> None:
    made = _run(settings, tmp_path, "keys", "create", "robot", "--scope", "jobs:read")
    assert made.returncode == 0, made.stderr
    key_id, token = made.stdout.split()[0], made.stdout.splitlines()[1]
    with transaction(sessions) as session:
        found = keys.find(session, token)
        assert found is not None
        assert (str(found.id), found.name, found.scopes) == (key_id, "robot", ["jobs:read"])
        assert token not in (found.sha256, found.prefix)
        assert keys.any_valid(session)
    listed = _run(settings, tmp_path, "keys", "ls").stdout
    assert "robot" in listed
    assert token not in listed
    (row,) = json.loads(_run(settings, tmp_path, "keys", "ls", "--json").stdout)
    assert (row["id"], row["name"], row["scopes"], row["revoked_at"]) == (key_id, "robot", ["jobs:read"], None)
    assert "sha256" not in row
    assert _run(settings, tmp_path, "keys", "revoke", key_id).returncode == 0
    assert _run(settings, tmp_path, "keys", "revoke", "00000000-0000-0000-0000-000000000000").returncode == 1
    with transaction(sessions) as session:
        assert keys.find(session, token) is None
        assert not keys.any_valid(session)


def test_keys_expire_and_need_known_scopes(sessions: sessionmaker[Session]) -> None:
    now = datetime.now(UTC)
    with transaction(sessions) as session:
        _, over = keys.create(session, name="over", scopes=["admin"], expires_at=now - timedelta(seconds=1))
        _, good = keys.create(session, name="good", scopes=["admin"], expires_at=now + timedelta(hours=1))
    with transaction(sessions) as session:
        assert keys.find(session, over) is None
        assert keys.find(session, good) is not None
        assert keys.find(session, good[:-1] + ("0" if good[-1] != "0" else "1")) is None
        assert [key.name for key in keys.list_keys(session)] == ["good", "over"]
        for scopes in (["jobs:everything"], []):
            with pytest.raises(Invalid):
                keys.create(session, name="bad", scopes=scopes)
        with pytest.raises(KeyNotFound):
            keys.revoke(session, keys.uuid7.uuid7())


def test_doctor_passes_every_check(settings: Settings) -> None:
    checks = {check.name: check for check in doctor.doctor(settings)}
    assert [check for check in checks.values() if not check.ok] == []
    assert set(checks) == set(doctor.CHECKS)
    printed = json.loads(_run(settings, settings.run_root.parent, "doctor", "--json").stdout)
    assert {(check["name"], check["ok"]) for check in printed} == {(name, True) for name in doctor.CHECKS}


def test_doctor_names_what_is_missing(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(doctor.CHECKS, "torch")
    (tmp_path / "file").touch()
    broken = Settings(
        database_url="postgresql://atft:x@127.0.0.1:9/none",
        redis_url="redis://127.0.0.1:9/0",
        run_root=tmp_path / "file" / "runs",
    )
    assert [check.name for check in doctor.doctor(broken) if check.ok] == []
    assert all(check.detail and "\n" not in check.detail for check in doctor.doctor(broken))
    base, _, _ = settings.database_url.get_secret_value().rpartition("/")
    empty = Settings(database_url=f"{base}/postgres", redis_url=settings.redis_url, run_root=settings.run_root)
    failed = {check.name: check.detail for check in doctor.doctor(empty) if not check.ok}
    assert next(iter(failed)) == "migrations"  # and the checks that read the missing tables
    assert "jobs.admin migrate" in failed["migrations"]


def test_commands_without_a_database_say_what_to_do(tmp_path: Path) -> None:
    done = _run(Settings(), tmp_path, "migrate")
    assert done.returncode == 1
    assert "atft up" in done.stderr
    assert _run(Settings(), tmp_path, "nonsense").returncode == 2
