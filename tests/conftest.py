"""Real servers for the tests that need them: one Postgres and one Valkey per test process, one database per test,
copied from a template that the migrations have built.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import redis
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.migrate import migrate
from jobs.db.session import sync_engine, sync_sessions
from jobs.embedded import servers as embedded
from jobs.settings import Settings

TEMPLATE = "atft_template"


def with_database(url: str, name: str) -> str:
    return f"{url.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def servers() -> Iterator[embedded.EmbeddedServers]:
    """One Postgres and one Valkey for this test process. Nothing is kept, so nothing need reach the disk."""
    var = Path(tempfile.mkdtemp(prefix="atft-test-"))
    var.chmod(0o755)  # started as root, the servers run as another user
    with embedded.start(var, postgres_options=("-c", "fsync=off", "-c", "full_page_writes=off")) as running:
        yield running
    shutil.rmtree(var)


@pytest.fixture(scope="session")
def template(servers: embedded.EmbeddedServers) -> str:
    """The name of a database at the head of the migrations, never connected to again: a template must be idle."""
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{TEMPLATE}"')
    migrate(Settings(database_url=with_database(servers.database_url, TEMPLATE)))
    return TEMPLATE


@pytest.fixture
def database(servers: embedded.EmbeddedServers, template: str) -> Iterator[str]:
    """The URL of a database of this test's own."""
    name = f"t_{uuid4().hex[:12]}"
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        yield with_database(servers.database_url, name)
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def settings(servers: embedded.EmbeddedServers, database: str, tmp_path: Path) -> Settings:
    """Short leases and sweeps; the broker is emptied."""
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
    data_root, run_root = tmp_path / "data", tmp_path / "runs"
    data_root.mkdir()
    run_root.mkdir()
    return Settings(
        database_url=database,
        redis_url=servers.redis_url,
        data_root=data_root,
        run_root=run_root,
        lease_seconds=4.0,
        sweep_seconds=0.5,
    )


@pytest.fixture
def sessions(settings: Settings) -> Iterator[sessionmaker[Session]]:
    engine = sync_engine(settings, pool_size=20)
    yield sync_sessions(engine)
    engine.dispose()
