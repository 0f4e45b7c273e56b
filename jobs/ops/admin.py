"""The operator's commands: `python -m jobs.admin doctor | backup | restore | keys | migrate | migration`."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from jobs.access import audit, keys
from jobs.db.migrate import draft_migration, migrate
from jobs.db.session import sync_engine, sync_sessions, transaction
from jobs.db.tables import ApiKey
from jobs.errors import JobsError
from jobs.ops.backup import BackupError, backup, restore
from jobs.ops.doctor import doctor
from jobs.settings import Settings

Result = TypeVar("Result")
OPERATOR: Final = "operator"


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _run_doctor(settings: Settings, *, as_json: bool) -> int:
    checks = doctor(settings)
    if as_json:
        _print_line(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        for check in checks:
            _print_line(f"{'ok  ' if check.ok else 'FAIL'} {check.name:<10} {check.detail}")
    return 0 if all(check.ok for check in checks) else 1


def _in_transaction(settings: Settings, change: Callable[[Session], Result]) -> Result:
    engine = sync_engine(settings)
    try:
        with transaction(sync_sessions(engine)) as session:
            return change(session)
    finally:
        engine.dispose()


def _record_audit(session: Session, action: str, target: str) -> None:
    audit.record(session, audit.AuditEntry(principal=OPERATOR, action=f"atft {action}", target=target))


def _run_keys(settings: Settings, arguments: argparse.Namespace) -> int:
    for line in _in_transaction(settings, lambda session: _change_keys(session, arguments)):
        _print_line(line)
    return 0


def _change_keys(session: Session, arguments: argparse.Namespace) -> list[str]:
    match arguments.action:
        case "create":
            scopes = arguments.scope or ["jobs:read", "jobs:write", "datasets:write"]
            quota = {name: int(limit) for name, limit in arguments.quota or ()}
            until = None if arguments.days is None else datetime.now(UTC) + timedelta(days=arguments.days)
            key, token = keys.create(session, name=arguments.name, scopes=scopes, expires_at=until, quota=quota)
            _record_audit(session, "keys create", f"/keys/{key.id}")
            return [f"{key.id}  {' '.join(key.scopes)}", token, "This key is shown once: keep it now."]
        case "ls" if arguments.json:
            return [json.dumps([_fields(key) for key in keys.list_keys(session)], indent=1)]
        case "ls":
            return [_describe(key) for key in keys.list_keys(session)]
        case _:
            key = keys.revoke(session, arguments.id)
            _record_audit(session, "keys revoke", f"/keys/{key.id}")
            return [f"{key.id} is revoked"]


def _fields(key: ApiKey) -> dict[str, object]:
    """The columns of a key except its hash, as JSON."""
    times = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    return {
        "id": str(key.id), "name": key.name, "prefix": f"atft_{key.prefix}", "scopes": key.scopes, "quota": key.quota,
    } | {name: time and time.isoformat() for name, time in times.items()}  # fmt: skip


def _describe(key: ApiKey) -> str:
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    state = (
        "revoked" if key.revoked_at else "expired" if expired else f"until {key.expires_at:%Y-%m-%d}" if key.expires_at
        else "good"
    )  # fmt: skip
    used = f"used {key.last_used_at:%Y-%m-%d}" if key.last_used_at else "never used"
    return f"{key.id}  atft_{key.prefix}_…  {state:<16} {used:<15} {' '.join(key.scopes)}  {key.name}"


def _run_backup(settings: Settings, file: Path, *, files: bool) -> int:
    counts = backup(settings, file, files=files)
    skipped = f"; {counts.skipped} files were replaced meanwhile" if counts.skipped else ""
    _print_line(f"{file}: {counts.rows} rows and {counts.files} files, {file.stat().st_size / 1e6:.1f} MB{skipped}")
    _print_line("It holds no key and no password, but all data: keep it as safe as the database.")
    return 0


def _run_restore(settings: Settings, file: Path) -> int:
    counts = restore(settings, file)
    _in_transaction(settings, lambda session: _record_audit(session, "restore", file.name))
    _print_line(f"{counts.rows} rows and {counts.files} files are back; `atft doctor` says whether they agree")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.admin",
        description="Operator's commands on the servers of ATFT_DATABASE_URL and ATFT_REDIS_URL",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser(
        "doctor", help="check everything that the service needs; exit code 1 when a check fails"
    )
    checking.add_argument("--json", action="store_true", help="the checks as JSON")
    commands.add_parser("migrate", help="upgrade the database to this version")
    drafting = commands.add_parser("migration", help="for developers: draft the next migration")
    drafting.add_argument("message")
    saving = commands.add_parser(
        "backup", help="write the database and its files to one file; the service may keep running"
    )
    saving.add_argument("file", type=Path)
    saving.add_argument("--no-files", action="store_true", help="rows only: no caches, checkpoints, artifacts")
    commands.add_parser("restore", help="fill an empty database and run root from a backup").add_argument(
        "file", type=Path
    )
    actions = commands.add_parser("keys", help="API keys").add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="create a key and show it once")
    create.add_argument("name")
    create.add_argument(
        "--scope", action="append", choices=keys.SCOPES, help="repeatable; default: everything but admin"
    )
    create.add_argument("--days", type=float, help="days until it expires; default: never")
    create.add_argument(
        "--quota", action="append", nargs=2, metavar=("NAME", "LIMIT"),
        help=f"repeatable, overrides the server's: {', '.join(keys.QUOTAS)}",
    )  # fmt: skip
    actions.add_parser("ls", help="list keys").add_argument("--json", action="store_true", help="as JSON")
    actions.add_parser("revoke", help="revoke a key").add_argument("id", type=UUID)
    return parser


def main() -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args()
    settings = Settings()
    try:
        match arguments.command:
            case "doctor":
                return _run_doctor(settings, as_json=arguments.json)
            case "backup":
                return _run_backup(settings, arguments.file, files=not arguments.no_files)
            case "restore":
                return _run_restore(settings, arguments.file)
            case "migrate":
                migrate(settings)
            case "migration":
                draft_migration(settings, arguments.message)
            case _:
                return _run_keys(settings, arguments)
    except (JobsError, BackupError, OperationalError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
