"""The Alembic environment: runs the migrations on the connection that `jobs.db.migrate` passes. Its version table has a
name of its own, because Optuna uses Alembic too.
"""

from alembic import context
from sqlalchemy import Connection, text

from jobs.db.tables import Base

_LOCK = 0x61746674  # the advisory lock that serializes migrations


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table="atft_alembic_version",
        compare_server_default=True,
    )
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        context.run_migrations()


_run(context.config.attributes["connection"])
