"""What a child reads is what is on record: the weights of `init_from`, and the cache; and the scrub of stored files."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session, sessionmaker

from atft import checksums
from atft.checksums import sha256_of
from atft.spec.job import TrainSpec
from jobs.db.session import transaction
from jobs.db.tables import ArtifactRow, Dataset, Json
from jobs.settings import Settings
from jobs.states import JobState, Reason, Wanted
from tests.integration.worker.supervisor_harness import FINGERPRINT, HONEST_PROGRAM, SupervisorHarness
from worker.upkeep.scrub import Scrub

SHA = hashlib.sha256(b"weights").hexdigest()
NUM_FEATURES = 5  # of the honest evidence


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> SupervisorHarness:
    return SupervisorHarness(settings, sessions)


def claim(source: UUID, sha256: str) -> tuple[str, str]:
    sizes = TrainSpec(dataset="d").parameter_sizes(NUM_FEATURES)
    tensors = [f"{module}.{number}" for module, own in sizes.items() for number in range(len(own))]
    loaded = {"job_id": str(source), "task": "train", "files": {"best.safetensors": sha256}}
    return "--evidence-override", json.dumps({"init_from": loaded | {"loaded": tensors, "left": []}})


def test_the_initial_weights_are_those_on_record(harness: SupervisorHarness) -> None:
    source = harness.submit()
    harness.want(source, Wanted.CANCEL)  # it must not run
    path = f"jobs/{source}/1/best.safetensors"
    file = harness.settings.run_root / path
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    row = {"job_id": source, "attempt": 1, "name": "best.safetensors", "path": path, "size_bytes": 7, "sha256": SHA}
    with transaction(harness.sessions) as session:
        session.execute(insert(ArtifactRow).values(**row, media_type="application/octet-stream"))
    assert harness.run(harness.submit(init_from=source), *HONEST_PROGRAM, *claim(source, SHA)) is JobState.SUCCEEDED
    other = harness.submit(init_from=source)
    assert harness.run(other, *HONEST_PROGRAM, *claim(source, "cd" * 32)) is JobState.FAILED
    assert harness.job(other).reason is Reason.EVIDENCE_MISMATCH
    assert "init_from.files" in (harness.job(other).message or "")
    file.write_bytes(b"weight5")
    late = harness.submit(init_from=source)
    assert harness.run(late, *HONEST_PROGRAM, *claim(source, SHA)) is JobState.FAILED
    assert harness.job(late).reason is Reason.DATA_CHANGED
    assert f"best.safetensors of job {source} is missing or altered" in (harness.job(late).message or "")


def test_an_altered_cache_is_found_before_the_child_starts_and_after_it_has_ended(harness: SupervisorHarness) -> None:
    folder = harness.settings.caches_root / FINGERPRINT
    (folder / "panel.arrow").write_bytes(b"targets")
    manifest = {"files": {"panel.arrow": {"sha256": hashlib.sha256(b"targets").hexdigest(), "size_bytes": 7}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    row = {"name": "d", "version": 1, "fingerprint": FINGERPRINT, "path": f"caches/{FINGERPRINT}"}
    about: Json = {"spec": {}, "manifest": manifest, "profile": {}, "leak_report": {}, "size_bytes": 7}
    first = harness.submit()
    with transaction(harness.sessions) as session:
        session.execute(insert(Dataset).values(**row, **about, id=uuid4(), job_id=first))
    assert harness.run(first, *HONEST_PROGRAM) is JobState.SUCCEEDED

    during = harness.submit()
    running = harness.start(*HONEST_PROGRAM, "--epochs", "3", "--epoch-seconds", "0.3")
    harness.wait_until(lambda: harness.points(during))
    panel = harness.settings.run_root.resolve() / f"caches/{FINGERPRINT}" / "panel.arrow"
    panel.write_bytes(b"tampers")  # as a disk does it, unseen: only the row says that the scrub has found it
    remembered = checksums._Identity.of(panel), hashlib.sha256(b"targets").hexdigest()
    running.supervisor.checksums._remembered[panel] = remembered
    with transaction(harness.sessions) as session:
        session.execute(update(Dataset).values(verified_at=None, profile={"max": 1}))
    (folder / "report.json").write_text(json.dumps({"profile": {"max": 1}, "leak_report": {}}))
    assert running.result() is JobState.FAILED
    after = harness.submit()
    assert harness.run(after, *HONEST_PROGRAM) is JobState.FAILED
    for job_id, points in ((during, 9), (after, 0)):
        job = harness.job(job_id)
        assert (job.reason, len(harness.points(job_id))) == (Reason.DATA_CHANGED, points)
        assert "panel.arrow of dataset d@1 is missing or altered" in (job.message or "")
    with transaction(harness.sessions) as session:
        assert session.scalars(select(Dataset.verified_at)).one() is None


def test_missing_initial_weights_fail_the_job(harness: SupervisorHarness) -> None:
    job_id = harness.submit(init_from=uuid4())
    assert harness.run(job_id, *HONEST_PROGRAM) is JobState.FAILED
    assert harness.job(job_id).reason is Reason.INVALID_PARAMS
    assert "has no weights" in (harness.job(job_id).message or "")


def test_the_scrub_reads_what_is_due_in_steps_and_unmarks_what_is_damaged(harness: SupervisorHarness) -> None:
    job_id = harness.submit()
    names = ("whole", "altered", "gone", "read today")
    with transaction(harness.sessions) as session:
        for name in names:
            path = harness.settings.run_root / name
            path.write_bytes(name.encode())
            row = {"job_id": job_id, "attempt": 1, "name": name, "path": name, "media_type": "a/b", "size_bytes": 1}
            day = datetime(2020 if name != "read today" else 2999, 1, 1, tzinfo=UTC)
            session.execute(insert(ArtifactRow).values(**row, sha256=sha256_of(path), verified_at=day))
    (harness.settings.run_root / "altered").write_bytes(b"alter3d")
    (harness.settings.run_root / "gone").unlink()
    scrub = Scrub(harness.settings, harness.sessions, step_bytes=1)
    for _ in names:
        scrub.step()
    with transaction(harness.sessions) as session:
        found = {row.name: row.verified_at for row in session.scalars(select(ArtifactRow))}
    assert [name for name in names if found[name] is None] == ["altered", "gone"]
    assert found["whole"] is not None
    assert 2020 < found["whole"].year < 2999


def test_the_scrub_says_once_what_stays_damaged_goes_on_and_judges_by_the_newest_row(
    harness: SupervisorHarness, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = harness.submit()
    names, day = ("gone", "altered", "replaced", "whole"), datetime(2020, 1, 1, tzinfo=UTC)
    with transaction(harness.sessions) as session:
        for number, name in enumerate(names):
            path = harness.settings.run_root / name
            path.write_bytes(b"new")
            row = {"job_id": job_id, "attempt": 1, "name": name, "path": name, "media_type": "a/b", "size_bytes": 1}
            sha256 = sha256_of(path) if name == "whole" else "0" * 64
            read = None if name in names[:2] else day + timedelta(days=number)
            session.execute(insert(ArtifactRow).values(**row, sha256=sha256, verified_at=read))
    (harness.settings.run_root / "gone").unlink()
    scrub = Scrub(harness.settings, harness.sessions, step_seconds=0.0, batch=1)
    for _ in range(9):
        if len(caplog.records) < 2:
            scrub.step()
    scrub.step()  # the pass ends
    scrub.step()  # the next one reads `replaced`
    with transaction(harness.sessions) as session:
        session.execute(update(ArtifactRow).values(sha256=sha256_of(harness.settings.run_root / "whole")))
    for _ in range(9):
        scrub.step()
    assert sorted(record.getMessage().split()[0] for record in caplog.records) == ["altered", "gone"]
    with transaction(harness.sessions) as session:
        found = {row.name: row.verified_at for row in session.scalars(select(ArtifactRow))}
    assert [name for name in names if found[name] is None] == ["gone", "altered"]
    assert min(filter(None, found.values())) > day + timedelta(days=9)
