"""Health checks of everything that the service needs, and of the consistency between rows and files."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from redis.exceptions import RedisError
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from atft.checksums import Checksums
from jobs.access import audit
from jobs.broker.pubsub import redis_client
from jobs.db.migrate import connection_to, database_revision, head_revision
from jobs.db.tables import AuditRow, Dataset, Job
from jobs.ops import retention
from jobs.paths import checkpoint_folder
from jobs.record import store_identity, stored
from jobs.settings import Settings
from jobs.states import JobState

STUCK_AFTER: Final = timedelta(minutes=5)  # long enough for many sweeps
_SHOWN: Final = 5


@dataclass(frozen=True)
class Check:
    """The result of one check; `detail` says what was found or what to do."""

    name: str
    ok: bool
    detail: str


def _database(settings: Settings) -> str:
    with connection_to(settings) as connection:
        return f"Postgres {connection.execute(text('SHOW server_version')).scalar_one()}"


def _migrations(settings: Settings) -> str:
    with connection_to(settings) as connection:
        found, head = database_revision(connection), head_revision()
    if found != head:
        raise ValueError(f"the database is at {found}, the code at {head}: run `python -m jobs.admin migrate`")
    return f"at {head}"


def _broker(settings: Settings) -> str:
    with redis_client(settings) as client:
        return f"Redis protocol, server {client.info('server')['redis_version']}"


def _run_root(settings: Settings) -> str:
    settings.run_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=settings.run_root) as probe:
        probe.write(b"probe")
    return str(settings.run_root.resolve())


def _disk(settings: Settings) -> str:
    free, min_free = shutil.disk_usage(settings.run_root).free, settings.min_free_bytes
    if free < min_free:
        raise ValueError(
            f"{free / 1e9:.1f} GB free under {settings.run_root}: at least {min_free / 1e9:g} GB are needed"
        )
    return f"{free / 1e9:.0f} GB free"


def _store(settings: Settings) -> str:
    with connection_to(settings) as connection, Session(connection) as session:
        if (problem := store_identity.problem(session, settings.run_root)) is not None:
            raise ValueError(problem)
    return "the run root is this database's"


def _leases(settings: Settings) -> str:
    with connection_to(settings) as connection, Session(connection) as session:
        late = (Job.state == JobState.RUNNING, Job.lease_until < func.now() - STUCK_AFTER)
        stuck = session.scalars(select(Job.id).where(*late).order_by(Job.lease_until)).all()
    if stuck:
        raise ValueError(
            f"expired leases were not ended: {_first_few(map(str, stuck))}: is a worker of queue control running?"
        )
    return "none is stuck"


def _files(settings: Settings) -> str:
    """Read every file named by a row, and compare its bytes with the row."""
    waiting = select(Job.id, Job.checkpoint).where(Job.finished_at.is_(None), Job.checkpoint["path"].is_not(None))
    with connection_to(settings) as connection, Session(connection) as session:
        rows = list(stored.stored_rows(session))
        checkpoints = [(job_id, checkpoint) for job_id, checkpoint in session.execute(waiting) if checkpoint]
    checksums = Checksums()
    found = [(row, stored.damaged(settings.run_root, row, checksums)) for row in rows]
    wrong = [stored.describe_damage(row, name) for row, name in found if name is not None]
    for job_id, checkpoint in checkpoints:
        folder = checkpoint_folder(settings.jobs_root, job_id, checkpoint["path"])
        if not stored.checkpoint_is_whole(folder, checkpoint["sha256"]):
            wrong.append(f"the checkpoint of job {job_id} is missing or altered")
    if wrong:
        raise ValueError(f"{len(wrong)} missing or altered: {'; '.join(wrong[:_SHOWN])}")
    return f"all bytes of {len(rows)} caches and artifacts are those that were recorded"


def _orphans(settings: Settings) -> str:
    """Report folders without a row. They are not removed, since they may belong to another database."""
    with connection_to(settings) as connection, Session(connection) as session:
        jobs = {str(job_id) for job_id in session.scalars(select(Job.id))}
        caches = set(session.scalars(select(Dataset.fingerprint).where(Dataset.deleted_at.is_(None))))
    found = [
        str(folder.relative_to(settings.run_root))
        for root, known in ((settings.jobs_root, jobs), (settings.caches_root, caches))
        for folder in _entries(root)
        if folder.name not in known
    ]
    return f"{len(found)} folders belong to no row: {_first_few(found)}" if found else "every folder has its row"


def _retention(settings: Settings) -> str:
    """Report what the next clean-up would remove, without removing it."""
    with connection_to(settings) as connection, Session(connection) as session:
        due = list(retention.plan(session, settings, retention.job_folders(settings)))
    size = sum(removal.size_bytes for removal in due)
    shown = f": {_first_few(str(removal.job_id) for removal in due)}" if due else ""
    return f"{size / 1e9:.3f} GB of {len(due)} finished jobs can be removed{shown}"


def _audit(settings: Settings) -> str:
    with connection_to(settings) as connection, Session(connection) as session:
        if not audit.is_guarded(session):
            raise ValueError("the triggers that protect the audit log are missing or disabled: restore them")
        number, newest = session.execute(select(func.count(), func.max(AuditRow.time))).one()
    return f"{number} rows, append-only" + (f", the newest of {newest:%Y-%m-%d %H:%M} UTC" if newest else "")


def _torch(settings: Settings) -> str:
    program = "import torch; print(torch.__version__, 'cuda' if torch.cuda.is_available() else 'cpu')"
    child = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=settings.child_environment(1, "0"),
    )
    if child.returncode != 0:
        raise ValueError(f"torch cannot be imported: {child.stderr.strip().splitlines()[-1:]}")
    return f"torch {child.stdout.strip()}"


def _entries(root: Path) -> list[Path]:
    return sorted(root.iterdir()) if root.is_dir() else []


def _first_few(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


CHECKS: Final[dict[str, Callable[[Settings], str]]] = {
    "database": _database,
    "migrations": _migrations,
    "broker": _broker,
    "run root": _run_root,
    "disk": _disk,
    "store": _store,
    "leases": _leases,
    "files": _files,
    "orphans": _orphans,
    "retention": _retention,
    "audit": _audit,
    "torch": _torch,
}


def doctor(settings: Settings, checks: Mapping[str, Callable[[Settings], str]] = CHECKS) -> list[Check]:
    """Run the checks and return their results in order."""
    found = []
    for name, check in checks.items():
        try:
            found.append(Check(name, ok=True, detail=check(settings)))
        except (DBAPIError, RedisError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            found.append(Check(name, ok=False, detail=str(error).splitlines()[0]))
    return found
