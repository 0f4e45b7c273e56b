"""`python -m migrations.studies`: Optuna's own tables, in the schema `optuna`, at the version of the installed Optuna.

A program of its own, which `python -m jobs.admin migrate` runs: what imports `jobs` is to load no Optuna.
"""

import sys

import optuna
import sqlalchemy as sa

from jobs.settings import Settings

_LOCK = 0x6F707475  # one at a time, whoever starts it


def migrate(settings: Settings) -> None:
    """Make the schema and its tables, or bring them up; Optuna's version table stands among them, ours does not."""
    engine = sa.create_engine(settings.sync_database_url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS optuna"))
        storage = optuna.storages.RDBStorage(
            settings.studies_database_url, engine_kwargs={"poolclass": sa.NullPool}, skip_compatibility_check=True
        )
        if storage.get_current_version() != storage.get_head_version():
            storage.upgrade()
        storage.engine.dispose()


if __name__ == "__main__":
    migrate(Settings())
    sys.exit(0)
