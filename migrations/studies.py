"""`python -m migrations.studies`: creates or upgrades the tables of the installed Optuna, in the schema `optuna`.

A separate program, run by `python -m jobs.admin migrate`, so that code that imports `jobs` does not load Optuna.
"""

import sys

import optuna
import sqlalchemy as sa

from jobs.settings import Settings

_LOCK = 0x6F707475  # the advisory lock that serializes these migrations


def migrate(settings: Settings) -> None:
    """Create the schema and its tables, or upgrade them. Optuna's version table is one of them."""
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
