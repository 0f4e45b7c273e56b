"""The migrations create exactly the tables of the code, from any folder and also when run concurrently."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from jobs.db import migrate
from jobs.db.tables import Base
from jobs.embedded.servers import EmbeddedServers
from jobs.settings import Settings

ROOT = Path(__file__).parents[3]
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'atft_alembic_version' ORDER BY 1, 2"""
INDEXES = """
    SELECT indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'atft_alembic_version' ORDER BY 1"""


@pytest.fixture
def empty(servers: EmbeddedServers) -> Iterator[Settings]:
    """An empty database."""
    name = f"empty_{uuid4().hex[:12]}"
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield Settings(database_url=f"{servers.database_url.rpartition('/')[0]}/{name}", redis_url=servers.redis_url)
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_autogenerate_finds_no_difference(settings: Settings) -> None:
    engine = sa.create_engine(settings.sync_database_url)
    with engine.connect() as connection:
        migrate.check_schema(connection)
        assert migrate.database_revision(connection) == migrate.head_revision()
    engine.dispose()


def test_checks_and_indexes_are_those_of_the_tables(settings: Settings, empty: Settings) -> None:
    """What autogenerate does not compare: a state or reason added to the code needs a migration of its CHECK."""
    found: list[set[tuple[str, ...]]] = []
    for where, create in ((settings, False), (empty, True)):
        engine = sa.create_engine(where.sync_database_url)
        if create:
            Base.metadata.create_all(engine)
        with engine.connect() as connection:
            rows = [row for query in (CONSTRAINTS, INDEXES) for row in connection.execute(sa.text(query))]
        found.append({tuple(row) for row in rows})
        engine.dispose()
    assert sorted(found[0] ^ found[1]) == []
    assert len(found[0]) > 50


def test_kinds_are_checked_again_after_a_downgrade(settings: Settings) -> None:
    engine = sa.create_engine(settings.sync_database_url)
    with engine.begin() as connection:
        names = [name for _, name, _ in connection.execute(sa.text(CONSTRAINTS))]
        assert "ck_jobs_state" in names
        assert "ck_jobs_kind" not in names
        with Operations.context(MigrationContext.configure(connection)):
            import_module("migrations.versions.0004_kinds_without_a_check").downgrade()
        assert "ck_jobs_kind" in [name for _, name, _ in connection.execute(sa.text(CONSTRAINTS))]
    engine.dispose()


def test_the_indexes_of_lists_can_be_taken_back(settings: Settings) -> None:
    migration = import_module("migrations.versions.0007_indexes_of_lists")
    engine = sa.create_engine(settings.sync_database_url)
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        before = [tuple(row) for row in connection.execute(sa.text(INDEXES))]
        migration.downgrade()
        assert not {f"ix_jobs_{column}_created" for column in ("dataset", "kind", "state")} & {
            name for name, _ in connection.execute(sa.text(INDEXES))
        }
        migration.upgrade()
        assert [tuple(row) for row in connection.execute(sa.text(INDEXES))] == before
    engine.dispose()


def test_migrate_runs_from_any_folder_many_at_once(empty: Settings, tmp_path: Path) -> None:
    environment = {"ATFT_DATABASE_URL": empty.database_url.get_secret_value(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jobs.admin", "migrate"]
    started = [subprocess.Popen(command, cwd=tmp_path, env=environment) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    engine = sa.create_engine(empty.sync_database_url)
    with engine.connect() as connection:
        assert migrate.database_revision(connection) == migrate.head_revision()
        assert set(sa.inspect(connection).get_table_names()) == {*Base.metadata.tables, "atft_alembic_version"}
    engine.dispose()
