"""The audit log: one row for each change requested by a client or an operator, written in the same transaction."""

from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import bindparam, insert, select, text
from sqlalchemy.orm import Session

from jobs.db.tables import AuditRow

TRIGGERS: Final = ("audit_append_only", "audit_no_truncate")
_ENABLED: Final = text("SELECT tgname FROM pg_trigger WHERE tgrelid = 'audit'::regclass AND tgenabled <> 'D'")


_COLUMNS: Final = ("who", "action", "target", "request_id", "address")
# Built once, and without RETURNING the id: every submit writes one.
_RECORD: Final = (
    insert(AuditRow)
    .values({name: bindparam(f"new_{name}") for name in _COLUMNS})
    .inline()
    .execution_options(dml_strategy="orm")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEntry:
    """Which principal did what to which target. `address` is the client's IP address."""

    principal: str
    action: str
    target: str
    request_id: str | None = None
    address: str | None = None

    def with_target(self, target: str) -> "AuditEntry":
        """A copy with the target, once the id of what was created is known."""
        return replace(self, target=target)


def record(session: Session, entry: AuditEntry) -> None:
    """Insert the entry as a row."""
    values = (entry.principal, entry.action, entry.target, entry.request_id, entry.address)
    session.execute(_RECORD, {f"new_{name}": value for name, value in zip(_COLUMNS, values, strict=True)})


def page(
    session: Session, *, principal: str | None = None, before: int | None = None, limit: int = 50
) -> tuple[list[AuditRow], int | None]:
    """One page of rows, newest first, and the id to pass as `before` for the next one; null on the last page."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit + 1)
    if principal is not None:
        query = query.where(AuditRow.who == principal)
    if before is not None:
        query = query.where(AuditRow.id < before)
    rows = list(session.scalars(query))
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def is_guarded(session: Session) -> bool:
    """Whether the triggers that make the table append-only exist and are enabled."""
    return set(TRIGGERS) <= set(session.scalars(_ENABLED))
