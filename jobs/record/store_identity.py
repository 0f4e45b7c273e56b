"""The identity of the store: a row of the database and a file of the run root, which must name the same store."""

import contextlib
import json
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import event, insert, select, text
from sqlalchemy.orm import Session

from atft.checksums import sync, write_atomic
from jobs.db.tables import Dataset, Store

MARK: Final = "store.json"
_PENDING: Final = f"{MARK}.pending"
_LOCK: Final = text("LOCK TABLE store IN SHARE ROW EXCLUSIVE MODE")


def known_id(session: Session) -> UUID | None:
    """The identity that the database has for its store; null before a worker has bound one."""
    return session.scalars(select(Store.id)).one_or_none()


def problem(session: Session, run_root: Path) -> str | None:
    """Why the run root is not the store of this database; null when it is, and while the database has none."""
    return problem_of(known_id(session), run_root)


def problem_of(known: UUID | None, run_root: Path) -> str | None:
    """`problem`, of a database whose store is `known`."""
    found = _read_id(run_root / MARK)
    if found is None and known is not None:
        found = _read_id(run_root / _PENDING)
    if known is None and found is None:
        return None
    if known is None:
        return (
            "the run root (ATFT_RUN_ROOT) belongs to another database, and this one has no store yet: give it an empty "
            f"folder, or, when that database is gone for good, remove {MARK} from this one"
        )
    if found is None:
        return (
            f"the run root (ATFT_RUN_ROOT) has no readable {MARK}: it is not mounted here, or is not that of this "
            f'database; if it is, write {{"id": "{known}"}} to that file'
        )
    if found != known:
        return "the run root (ATFT_RUN_ROOT) belongs to another database: give the one that the other processes have"
    return None


def bind(session: Session, run_root: Path) -> str | None:
    """`problem`, after this run root has become the store of a database that has none, or why it cannot.

    The file has another name until the row is committed: a process that dies before that binds nothing.
    """
    try:
        if (known := known_id(session)) is not None:
            _complete(run_root, known)
        elif _read_id(run_root / MARK) is None:
            session.execute(_LOCK)
            if known_id(session) is None:
                if (missing := _missing_cache(session, run_root)) is not None:
                    return (
                        f"the run root (ATFT_RUN_ROOT) lacks {missing} of this database: it is not mounted, or another"
                    )
                store_id = uuid4()
                run_root.mkdir(parents=True, exist_ok=True)
                write_atomic(run_root / _PENDING, json.dumps({"id": str(store_id)}).encode())
                session.execute(insert(Store).values(id=store_id))
                event.listen(session, "after_commit", lambda _: _complete(run_root, store_id), once=True)
    except OSError as error:
        return f"the run root (ATFT_RUN_ROOT) cannot be written: {error.strerror or error}"
    return problem(session, run_root)


def _complete(run_root: Path, store_id: UUID) -> None:
    """Give the file its name once its row is committed; what fails is done by the next `bind`."""
    if _read_id(run_root / MARK) is None and _read_id(run_root / _PENDING) == store_id:
        with contextlib.suppress(OSError):
            (run_root / _PENDING).replace(run_root / MARK)
            sync(run_root)


def _missing_cache(session: Session, run_root: Path) -> str | None:
    """The name of a dataset when none of the newest ones has its cache here: a store of before has no mark."""
    query = select(Dataset.name, Dataset.path).where(Dataset.deleted_at.is_(None))
    newest = session.execute(query.order_by(Dataset.created_at.desc()).limit(20)).all()
    seen = any((run_root / path).is_dir() for _, path in newest)
    return None if seen or not newest else f"the cache of dataset {newest[0].name}"


def _read_id(path: Path) -> UUID | None:
    try:
        return UUID(json.loads(path.read_bytes())["id"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
