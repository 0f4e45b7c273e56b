"""The audit log: one row for every change that somebody asks for, in the transaction that makes the change."""

from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from jobs.tables import AuditRow

TRIGGERS: Final = ("audit_append_only", "audit_no_truncate")
_FOUND: Final = text("SELECT tgname FROM pg_trigger WHERE tgrelid = 'audit'::regclass AND tgenabled <> 'D'")


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
    values = {"who": act.who, "action": act.action, "target": act.target}
    session.execute(insert(AuditRow).values(**values, request_id=act.request_id, address=act.address))


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
