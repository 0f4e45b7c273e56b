"""The embedded servers: killed and restarted without loss, stopped with their owner, as root and as another user."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from jobs.embedded import binaries, record
from jobs.embedded import servers as embedded

ROOT = Path(__file__).parents[3]


@pytest.fixture
def var() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="atft-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _kill(server: embedded.Server) -> None:
    assert server.process is not None
    server.process.kill()
    server.process.wait()


def test_killed_servers_come_back_with_their_data_on_their_ports(var: Path) -> None:
    with embedded.start(var) as servers:
        with psycopg.connect(servers.database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS number")
        with redis.Redis.from_url(servers.redis_url) as client:
            client.set("kept", "yes")
            assert client.waitaof(1, 0, 10_000)[0] == 1  # written to disk
        assert servers.check() == []
        _kill(servers.postgres)
        assert servers.check() == ["postgres"]
        _kill(servers.valkey)
        assert servers.check() == ["valkey"]
        with psycopg.connect(servers.database_url):  # a connection that stays open, as in a pool
            assert servers.postgres.process is not None
            servers.postgres.process.terminate()
            _until(servers.postgres.stopping)
            assert servers.check() == ["postgres"]
        with psycopg.connect(servers.database_url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == (42,)
            assert connection.execute("SHOW max_connections").fetchone() == ("200",)
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.get("kept") == b"yes"
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        urls = (servers.database_url, servers.redis_url)
    with embedded.start(var) as servers:  # a stop and a new start: the same URLs, the same data
        assert (servers.database_url, servers.redis_url) == urls
        with psycopg.connect(servers.database_url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == (42,)


def test_second_start_on_the_same_folder_is_refused_and_a_copy_of_it_uses_its_own_databases(var: Path) -> None:
    with embedded.start(var):
        with pytest.raises(embedded.EmbeddedError, match=f"already running, started by process {os.getpid()}"):
            embedded.start(var)
        live = var / "live"
        (live / "servers" / "postgres").mkdir(parents=True)
        for name in ("embedded.json", "servers/postgres/postmaster.pid"):
            shutil.copy(var / name, live / name)
        with pytest.raises(embedded.EmbeddedError, match=f"was copied from {var}/servers/postgres while"):
            embedded.start(live)
    copy = var / "copy"
    shutil.copytree(var / "servers", copy / "servers")
    shutil.copy(var / "embedded.json", copy)
    for path in (copy, *copy.rglob("*")):  # copytree keeps no owner
        binaries.server_account().chown(path, 0o700 if path.is_dir() else 0o600)
    copy.chmod(0o755)
    with embedded.start(copy) as servers, psycopg.connect(servers.database_url) as connection:
        assert connection.execute("SHOW data_directory").fetchone() == (str(copy / "servers" / "postgres"),)


def test_pain_45_servers_ask_for_a_password_and_keep_to_loopback(var: Path) -> None:
    with embedded.start(var) as servers:
        record = json.loads((var / "embedded.json").read_text())
        assert (var / "embedded.json").stat().st_mode & 0o077 == 0
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(f"postgresql://atft:wrong@127.0.0.1:{record['postgres_port']}/atft")
        with redis.Redis(port=record["valkey_port"]) as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.ping()
        for server in (servers.postgres, servers.valkey):
            assert record["password"] not in " ".join(server.command)
            assert "127.0.0.1" in server.command


def test_killed_owner_leaves_no_server(var: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-m", "jobs.embedded", "--var", str(var)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    lines = [owner.stdout.readline(), owner.stdout.readline()]
    owner.stdout.close()
    assert [line.split("=")[0] for line in lines] == ["ATFT_DATABASE_URL", "ATFT_REDIS_URL"]
    ports = [json.loads((var / "embedded.json").read_text())[name] for name in ("postgres_port", "valkey_port")]
    assert all(_listens(port) for port in ports)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    _until(lambda: not any(_listens(port) for port in ports))
    with embedded.start(var) as servers, psycopg.connect(servers.database_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_command_stops_both_on_sigterm(var: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-m", "jobs.embedded", "--var", str(var)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    owner.stdout.readline()
    owner.stdout.readline()
    owner.stdout.close()
    owner.terminate()
    assert owner.wait(20) == 0
    assert not (var / "servers/postgres/postmaster.pid").exists()


def test_killed_initdb_leaves_nothing_in_the_way(var: Path) -> None:
    draft = var / "servers/postgres.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")
    with embedded.start(var) as servers, psycopg.connect(servers.database_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_server_that_cannot_start_says_why(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_SECONDS", 0.5)
    with pytest.raises(embedded.EmbeddedError, match="no_such_setting"):
        embedded.start(var, postgres_options=("-c", "no_such_setting=1"))
    with embedded.start(var) as servers:
        assert servers.check() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_servers_start_as_an_ordinary_user(var: Path) -> None:
    """Modules are imported before the change of user, who may not be able to read the interpreter's folder."""
    nobody = pwd.getpwnam("nobody")
    os.chown(var, nobody.pw_uid, nobody.pw_gid)
    program = f"""
        import os, pathlib, encodings.idna, psycopg
        from jobs.embedded import servers as embedded
        os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})
        with embedded.start(pathlib.Path({str(var)!r})) as servers, psycopg.connect(servers.database_url) as connection:
            print(connection.execute("SELECT 6 * 7").fetchone()[0], os.geteuid())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"42 {nobody.pw_uid}\n", done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_servers_start_as_root_below_an_unreadable_home(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers' user cannot read the checkout: data and binaries are copied to a folder of its own."""
    home = var / "home"
    home.mkdir(mode=0o700)
    state = var / "state"
    for module in (record, binaries):
        monkeypatch.setattr(module, "STATE_ROOT", state)
    monkeypatch.setattr(binaries.Account, "can_run", lambda _self, program: state in program.parents)
    with embedded.start(home / "var") as servers, psycopg.connect(servers.database_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert Path(servers.postgres.command[0]).is_relative_to(state)
    assert len(list(state.glob("*/postgres"))) == 1
    with embedded.start(home / "var") as servers:
        assert servers.check() == []
