"""Run by Alembic: applies the steps on the connection that `jobs.db.migrate` hands over. Its version table is ours
alone: Optuna has its own Alembic.
"""

from alembic import context
from sqlalchemy import Connection, text

from jobs.db.tables import Base

_LOCK = 0x61746674  # one migration at a time, whoever starts it


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
