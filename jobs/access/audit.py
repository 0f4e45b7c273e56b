"""The audit log: one row for every change that somebody asks for, in the transaction that makes the change."""

from dataclasses import asdict, dataclass, replace
from typing import Final

from sqlalchemy import bindparam, insert, select, text
from sqlalchemy.orm import Session

from jobs.db.tables import AuditRow

TRIGGERS: Final = ("audit_append_only", "audit_no_truncate")
_FOUND: Final = text("SELECT tgname FROM pg_trigger WHERE tgrelid = 'audit'::regclass AND tgenabled <> 'D'")


_COLUMNS: Final = ("who", "action", "target", "request_id", "address")
# Made once, and without asking for the id: every submit writes one.
_RECORD: Final = (
    insert(AuditRow)
    .values({name: bindparam(f"act_{name}") for name in _COLUMNS})
    .inline()
    .execution_options(dml_strategy="orm")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Act:
    """Who does what, and to what. `address` is where the request came from."""

    who: str
    action: str
    target: str
    request_id: str | None = None
    address: str | None = None

    def on(self, target: str) -> "Act":
        """The same act, now that it is known what it made."""
        return replace(self, target=target)


def record(session: Session, act: Act) -> None:
    session.execute(_RECORD, {f"act_{name}": value for name, value in asdict(act).items()})


def page(
    session: Session, *, who: str | None = None, before: int | None = None, limit: int = 50
) -> tuple[list[AuditRow], int | None]:
    """Newest first, with the id to go on from; null on the last page."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit + 1)
    if who is not None:
        query = query.where(AuditRow.who == who)
    if before is not None:
        query = query.where(AuditRow.id < before)
    rows = list(session.scalars(query))
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def is_guarded(session: Session) -> bool:
    """Whether the triggers that refuse to change a row are there and enabled."""
    return set(TRIGGERS) <= set(session.scalars(_FOUND))
