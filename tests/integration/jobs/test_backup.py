"""Backup and restore on real servers: the same responses on an empty machine, and dumps of every earlier schema."""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa

from atft.checksums import sha256_of
from jobs.access import audit, keys
from jobs.db import migrate
from jobs.db.session import sync_engine, sync_sessions, transaction
from jobs.db.tables import AuditRow, Base, Job, JobEvent
from jobs.embedded.servers import EmbeddedServers
from jobs.ops import doctor
from jobs.ops.backup import BackupError, backup, restore
from jobs.record import catalog, lifecycle, store_identity
from jobs.settings import Settings
from jobs.states import JobState
from tests.integration.api.application import SPEC, Sessions, register, run, serving, submit, write_days

DUMPS = Path(__file__).parents[2] / "fixtures" / "dumps"
MakeTarget = Callable[[], Settings]


@pytest.fixture
def make_target(servers: EmbeddedServers, tmp_path: Path) -> Iterator[MakeTarget]:
    """Makes settings of an empty database and an empty run root."""
    names: list[str] = []

    def make() -> Settings:
        name = f"r_{uuid4().hex[:12]}"
        with psycopg.connect(servers.database_url, autocommit=True) as admin:
            admin.execute(f'CREATE DATABASE "{name}"')
        names.append(name)
        url = f"{servers.database_url.rpartition('/')[0]}/{name}"
        return Settings(
            database_url=url, redis_url=servers.redis_url, data_root=tmp_path, run_root=tmp_path / name / "runs"
        )

    yield make
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        for name in names:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def read_responses(settings: Settings, jobs: list[str]) -> dict[str, Any]:
    """The response of every GET that reads the record."""
    paths = ["/jobs", "/datasets", "/datasets/small", "/keys", "/audit", f"/compare?job={jobs[0]}&job={jobs[1]}"]
    of_job = ("", "/metrics", "/evidence", "/artifacts", "/artifacts/model.bin", "/logs")
    paths += [f"/jobs/{job}{what}" for job in jobs for what in of_job]
    paths += [f"/jobs/{job}/events" for job in jobs[:2]]  # finished jobs: the stream ends
    responses: dict[str, Any] = {}
    async with serving(settings) as client:
        for path in paths:
            response = await client.get(path)
            body: Any = response.content
            if path.endswith("/events"):  # its last message has the time of sending
                body, end, _ = response.content.partition(b"event: end")
                assert end
            if response.headers["content-type"] == "application/problem+json":
                body = response.json() | {"request_id": None}
            responses[path] = response.status_code, response.headers.get("etag"), body
    return responses


async def fill(settings: Settings, sessions: Sessions) -> list[str]:
    """Jobs in several states, with their files, artifacts, datasets, keys and audit entries."""
    register(sessions)
    days = write_days(settings, sessions)
    with transaction(sessions) as session:
        assert store_identity.bind(session, settings.run_root) is None
        days.with_name("manifest.json").write_text(json.dumps(catalog.dataset(session, "small").manifest))
    async with serving(settings) as client:
        ids = [(await submit(client, name=name, seed=seed))["id"] for seed, name in enumerate("αbc")]
    for job_id, to in zip(ids, (JobState.SUCCEEDED, JobState.FAILED, JobState.PAUSED), strict=True):
        run(sessions, UUID(job_id), None)
        folder = settings.jobs_root / job_id / "1"
        folder.mkdir(parents=True)
        (folder / "model.bin").write_bytes(bytes(range(256)) * 100)
        with transaction(sessions) as session:
            catalog.add_artifact(
                session, UUID(job_id), 1, name="model.bin", path=f"jobs/{job_id}/1/model.bin", size_bytes=25_600,
                sha256=sha256_of(folder / "model.bin"), media_type="application/octet-stream",
            )  # fmt: skip
            lifecycle.settle(session, UUID(job_id), 1, to)
    with transaction(sessions) as session:
        session.execute(sa.text("INSERT INTO optuna.studies (study_name) VALUES ('kept')"))
        audit.record(session, audit.AuditEntry(principal="operator", action="test", target="x"))
    return ids


@pytest.mark.anyio
async def test_g13_backup_and_restore_on_an_empty_machine_give_the_same_responses(
    settings: Settings, sessions: Sessions, make_target: MakeTarget, tmp_path: Path
) -> None:
    ids = await fill(settings, sessions)
    before = await read_responses(settings, ids)
    file = tmp_path / "record.zip"
    counts = backup(settings, file)
    assert (counts.files, counts.skipped) == (6, 0)
    assert file.stat().st_mode & 0o077 == 0
    shutil.rmtree(settings.run_root)
    target = make_target()
    assert restore(target, file).rows == counts.rows
    assert await read_responses(target, ids) == before
    engine = sync_engine(target)
    with transaction(sync_sessions(engine)) as session:
        assert session.scalar(sa.text("SELECT study_name FROM optuna.studies")) == "kept"
        session.execute(sa.text("INSERT INTO optuna.studies (study_name) VALUES ('next')"))  # its sequence was restored
        audit.record(session, audit.AuditEntry(principal="operator", action="after", target="x"))
        assert audit.is_guarded(session)
        assert store_identity.bind(session, target.run_root) is None
        newest = session.scalars(sa.select(sa.func.max(AuditRow.id))).one()
        assert newest == session.scalars(sa.select(sa.func.count()).select_from(AuditRow)).one()
    with pytest.raises(sa.exc.IntegrityError, match="cannot become"), transaction(sync_sessions(engine)) as session:
        session.execute(sa.update(Job).where(Job.state == JobState.SUCCEEDED).values(state="queued", finished_at=None))
    engine.dispose()
    with transaction(sessions) as session:  # the original's workers do not take the copy for their store
        assert "belongs to another database" in (store_identity.problem(session, target.run_root) or "")
    agree = {check.name: check for check in doctor.doctor(target) if check.name in ("files", "orphans", "audit")}
    assert [check for check in agree.values() if not check.ok] == []


def test_backup_leaves_nothing_half_written(settings: Settings, tmp_path: Path) -> None:
    away = Settings(database_url="postgresql://x@127.0.0.1:9/x", run_root=settings.run_root)
    with pytest.raises(psycopg.OperationalError):
        backup(away, tmp_path / "a.zip")
    assert not list(tmp_path.glob("*a.zip*"))
    backup(settings, tmp_path / "a.zip", files=False)
    with pytest.raises(BackupError, match="exists"):
        backup(settings, tmp_path / "a.zip")


@pytest.mark.anyio
async def test_restore_refuses_a_database_with_rows_and_a_damaged_backup(
    settings: Settings, sessions: Sessions, make_target: MakeTarget, tmp_path: Path
) -> None:
    await fill(settings, sessions)
    good, target = tmp_path / "good.zip", make_target()
    backup(settings, good)
    with pytest.raises(BackupError, match="has files"):
        restore(settings, good)
    with pytest.raises(BackupError, match="has rows"):
        restore(settings.model_copy(update={"run_root": tmp_path / "new"}), good)
    changes: tuple[tuple[dict[str, bytes], str], ...] = (
        ({"manifest.json": b'{"format_version": 9}'}, "format 9"),
        ({"manifest.json": b"{"}, "manifest"),
        ({"files/../../out": b"x"}, "outside"),
        ({"tables/public.metrics": b""}, "rows in the backup"),
    )
    for number, (change, message) in enumerate(changes):
        bad = tmp_path / f"bad{number}.zip"
        with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as out:
            for name in {*source.namelist(), *change}:
                out.writestr(name, change[name] if name in change else source.read(name))
        with pytest.raises(BackupError, match=message):
            restore(target, bad)
        shutil.rmtree(target.run_root, ignore_errors=True)
    whole = good.read_bytes()
    with zipfile.ZipFile(good) as source:
        member = next(info for info in source.infolist() if info.filename.endswith("model.bin"))
    at = member.header_offset + 30 + len(member.filename) + 60
    for damaged in (whole[:-100], whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :]):
        (tmp_path / "damaged.zip").write_bytes(damaged)
        with pytest.raises(BackupError, match="whole"):
            restore(target, tmp_path / "damaged.zip")
        shutil.rmtree(target.run_root, ignore_errors=True)
    assert restore(target, good).rows > 0
    assert "out" not in [path.name for path in tmp_path.iterdir()]  # noqa: ASYNC240


@pytest.mark.parametrize("dump", sorted(DUMPS.glob("*.zip")), ids=lambda path: path.stem)
@pytest.mark.anyio
async def test_g14_dumps_of_earlier_releases_are_upgraded_and_read(dump: Path, make_target: MakeTarget) -> None:
    target = make_target()
    with zipfile.ZipFile(dump) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["revision"] == dump.stem.split("-")[0]
    restore(target, dump)
    engine = sync_engine(target)
    with engine.connect() as connection:
        migrate.check_schema(connection)
        assert migrate.database_revision(connection) == migrate.head_revision()
    with transaction(sync_sessions(engine)) as session:
        for table in Base.metadata.sorted_tables:
            rows = session.execute(sa.select(table)).all()
            known = manifest["tables"].get(f"public.{table.name}")
            assert len(rows) == (known["rows"] if known else 0), table.name
        jobs = session.scalars(sa.select(Job).order_by(Job.created_at)).all()
        assert len(jobs) >= 4
        for job in jobs:
            seqs = session.scalars(
                sa.select(JobEvent.seq).where(JobEvent.job_id == job.id).order_by(JobEvent.seq)
            ).all()
            assert list(seqs) == list(range(1, job.last_seq + 1))
        session.execute(sa.update(sa.table("keys", sa.column("revoked_at"))).values(revoked_at=sa.func.now()))
    engine.dispose()
    async with serving(target) as client:
        for job in jobs:
            for what in ("", "/metrics", "/evidence", "/artifacts", "/logs"):
                assert (await client.get(f"/jobs/{job.id}{what}")).status_code == 200, (job.id, what)
        assert (await client.get("/datasets/small")).status_code == 200
        assert (await client.post("/jobs/train", json=SPEC)).status_code == 202


def test_there_is_a_dump_of_every_earlier_schema() -> None:
    """A release that adds migrations brings a dump of the one before: `tests/fixtures/dumps/README.md`."""
    assert (DUMPS / "0001-first.zip").is_file()
    assert all(path.stat().st_size < 1_000_000 for path in DUMPS.glob("*.zip"))


async def make_dump(settings: Settings, sessions: Sessions, target: Path) -> None:
    """How a dump of a release is made."""
    await fill(settings, sessions)
    with transaction(sessions) as session:
        keys.create(session, name="robot", scopes=["jobs:read"])
    backup(settings, target, files=False)
