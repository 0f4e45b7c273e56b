"""Builds by the real program: known content is reused, and a failed build leaves no row, cache or scratch files."""

import hashlib
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import Dataset, Job
from jobs.record import caches, catalog, lifecycle, queries, store_identity, submission
from jobs.record.reruns import RerunKind, submit_rerun
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason, Wanted
from tests.integration.worker.supervisor_harness import SupervisorHarness, program
from worker.attempt.launch import PROGRAM
from worker.upkeep import orphans

PLANTED = {"num_codes": 12, "num_days": 80, "num_features": 4}


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> SupervisorHarness:
    return SupervisorHarness(settings, sessions)


def submit(
    harness: SupervisorHarness,
    name: str,
    files: dict[str, str] | None = None,
    sent: bytes | None = None,
    **spec: object,
) -> UUID:
    with transaction(harness.sessions) as session:
        body = {"name": name, "horizons": [1], **spec}
        sources = {} if sent is None else {"panel": {"sha256": hashlib.sha256(sent).hexdigest()}}
        return submission.submit(
            session,
            submission.NewJob(
                kind=JobKind.DATASET,
                spec=body,
                spec_digest="x",
                queue="cpu",
                dataset=name,
                params={"files": files or {}, "sources": sources},
            ),
        ).job.id


def rows(harness: SupervisorHarness) -> list[tuple[str, int, str]]:
    with transaction(harness.sessions) as session:
        query = select(Dataset).where(Dataset.deleted_at.is_(None)).order_by(Dataset.name, Dataset.version)
        return [(row.name, row.version, row.fingerprint) for row in session.scalars(query)]


def left(harness: SupervisorHarness) -> list[str]:
    """Everything under the run root but logs, specs, the mark of the store and the benchmark's cache."""
    root = harness.settings.run_root
    files = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return sorted(name for name in files if not name.endswith(("log.txt", "spec.json", store_identity.MARK)))


def delete(harness: SupervisorHarness, ref: str) -> None:
    with transaction(harness.sessions) as session:
        deleted = catalog.delete_dataset(session, ref)
    for row in deleted:
        with transaction(harness.sessions) as session:
            discarded = caches.move_to_trash(session, harness.settings.caches_root / row.fingerprint)
        if discarded is not None:
            shutil.rmtree(discarded)


def test_the_same_content_is_built_once(harness: SupervisorHarness) -> None:
    assert harness.run(submit(harness, "a", planted=PLANTED), *PROGRAM) is JobState.SUCCEEDED
    [(_, _, fingerprint)] = rows(harness)
    cache = harness.settings.caches_root / fingerprint
    before = (cache / "panel.arrow").stat().st_ino
    again, other = submit(harness, "a", planted=PLANTED), submit(harness, "b", planted=PLANTED)
    for job_id in (again, other):
        assert harness.run(job_id, *PROGRAM) is JobState.SUCCEEDED
    assert rows(harness) == [("a", 1, fingerprint), ("b", 1, fingerprint)]
    assert (cache / "panel.arrow").stat().st_ino == before
    with transaction(harness.sessions) as session:
        reports = session.scalars(select(Dataset.profile)).all()
        versions = queries.get(session, again).evidence
    assert reports[0] == reports[1]
    assert versions is not None
    assert versions["versions"]["polars"]
    delete(harness, "a@1")
    assert cache.is_dir()
    delete(harness, "b")
    assert [name for name in left(harness) if name.startswith("caches/")] == []


def test_a_cache_deleted_while_its_build_ends_is_built_again(harness: SupervisorHarness) -> None:
    """The child found its content built already, and then the last dataset of that content was deleted."""
    job_id = submit(harness, "d", planted=PLANTED)
    assert harness.run(job_id, *program("building", "--already-built")) is JobState.QUEUED
    assert harness.job(job_id).reason is Reason.DATA_CHANGED
    assert rows(harness) == []
    (harness.settings.caches_root / "feed").mkdir()
    assert harness.run(job_id, *program("building", "--already-built")) is JobState.SUCCEEDED
    again = submit(harness, "e", planted=PLANTED)  # its profile is that of the row, as Postgres writes numbers
    assert harness.run(again, *program("building", "--already-built")) is JobState.SUCCEEDED
    assert rows(harness) == [("d", 1, "feed"), ("e", 1, "feed")]


def test_deleting_and_adopting_at_once_leave_no_row_without_a_cache(harness: SupervisorHarness) -> None:
    for turn in range(4):
        cache = harness.settings.caches_root / "feed"
        cache.mkdir(exist_ok=True)
        assert harness.run(submit(harness, f"old{turn}", planted=PLANTED), *program("building", "--already-built"))
        submit(harness, f"new{turn}", planted=PLANTED)
        running = harness.start(*program("building", "--already-built"))
        time.sleep(0.1 * turn)
        delete(harness, f"old{turn}")
        if running.result() is JobState.SUCCEEDED:
            assert cache.is_dir()
            delete(harness, f"new{turn}")
        assert rows(harness) == []
        assert not cache.exists()
        with transaction(harness.sessions) as session:
            for job in queries.page(session, queries.JobFilter(state=JobState.QUEUED))[0]:
                lifecycle.want(session, job.id, Wanted.CANCEL, by="test")


def test_a_damaged_cache_is_refused_until_it_is_built_again(harness: SupervisorHarness) -> None:
    """Whole again, it does not save a job that has read it damaged, nor what that job has learnt or computed."""

    def rerun(job_id: UUID, kind: RerunKind) -> Job:
        with transaction(harness.sessions) as session:
            return submit_rerun(session, job_id, kind, by="test").job

    built = submit(harness, "d", planted=PLANTED)
    assert harness.run(built, *program("building")) is JobState.SUCCEEDED
    cache = harness.settings.caches_root / "beef"
    training = program("obedient", "--evidence-for", "beef", imports=True)
    during = harness.submit(fingerprint="beef")
    running = harness.start(*training, "--epochs", "4", "--epoch-seconds", "0.1", "--last-epoch-seconds", "600")
    harness.wait_until(lambda: harness.job(during).checkpoint)
    (cache / "graphs").mkdir()
    (cache / "panel.arrow").write_bytes(b"pane1")

    early = harness.submit(fingerprint="beef")
    assert harness.supervisor(training).run() is JobState.FAILED
    words = f"panel.arrow of dataset d@1 is missing or altered: build it again (atft rerun {built})"
    assert (harness.job(early).reason, harness.job(early).message) == (Reason.DATA_CHANGED, words)
    assert not (cache / "graphs").exists()
    with transaction(harness.sessions) as session:
        assert session.scalars(select(Dataset.verified_at)).one() is None

    rerun(built, RerunKind.RERUN)  # by code that writes the same content in other bytes
    assert harness.supervisor(program("building", "--panel", "new bytes")).run() is JobState.SUCCEEDED
    assert (cache / "panel.arrow").read_bytes() == b"new bytes"
    assert rows(harness) == [("d", 1, "beef")]
    harness.want(during, Wanted.PAUSE)
    assert running.result() is JobState.FAILED
    assert "have been replaced: retry it, from the start" in (harness.job(during).message or "")
    for job_id in (early, during):
        retry = rerun(job_id, RerunKind.RETRY)
        assert (retry.checkpoint, harness.points(retry.id)) == (None, [])
        assert harness.run(retry.id, *training) is JobState.SUCCEEDED


BAD = {
    "code,close\nA,1\n": "no date column",
    "date,code,close\n2020-01-01,A,1\n2020-01-02,A,1\n": "2 trading days",
    "date,code,close\n2020-01-01,A,1\n2020-01-02,A,-1\n": "zero or negative",
    "PAR1 but not really": "cannot be read as Parquet",
}


@pytest.mark.parametrize(("text", "words"), BAD.items(), ids=BAD.values())
def test_bad_input_leaves_nothing_but_its_upload_for_a_day(harness: SupervisorHarness, text: str, words: str) -> None:
    upload = harness.settings.uploads_root / "u1"
    upload.mkdir(parents=True)
    (upload / "file.csv").write_text(text)
    job_id = submit(harness, "d", {"panel": "upload:u1/file.csv"})
    assert harness.run(job_id, *PROGRAM) is JobState.FAILED
    job = harness.job(job_id)
    assert (job.reason, rows(harness)) == (Reason.INVALID_PARAMS, [])
    assert words in (job.message or "")
    assert left(harness) == ["uploads/u1/file.csv"]
    old = time.time() - 2 * orphans.MIN_AGE_SECONDS
    for path in (upload, upload / "file.csv"):
        os.utime(path, (old, old))
    orphans.remove_orphans(harness.settings, harness.sessions)
    assert left(harness) == ["uploads/u1/file.csv"]
    with transaction(harness.sessions) as session:
        session.execute(update(Job).values(finished_at=Job.finished_at - caches.UPLOAD_RETENTION))
    orphans.remove_orphans(harness.settings, harness.sessions)
    assert left(harness) == []


def test_a_full_disk_leaves_nothing(harness: SupervisorHarness) -> None:
    script = Path(__file__).parents[2] / "programs" / "full_disk.py"
    job_id = submit(harness, "d", planted=PLANTED)
    assert harness.run(job_id, PROGRAM[0], str(script)) is JobState.FAILED
    assert harness.job(job_id).reason is Reason.DISK_FULL
    assert (rows(harness), left(harness)) == ([], [])


def test_a_killed_build_leaves_nothing_and_is_built_in_the_end(harness: SupervisorHarness) -> None:
    """A killed child leaves scratch files, then its worker is lost too: the next attempt removes them."""
    job_id = submit(harness, "d", planted={**PLANTED, "num_codes": 200, "num_days": 1000})
    running = harness.start(*PROGRAM)
    folder = harness.folder(job_id)
    harness.wait_until(lambda: list(folder.glob(".cache*")), 60)
    os.kill(harness.child_of(job_id), signal.SIGKILL)
    assert running.result() is JobState.QUEUED
    assert (rows(harness), left(harness)) == ([], [])
    lost = folder / ".cache.lost.tmp"
    lost.mkdir()
    (lost / "features").write_bytes(b"x")
    with transaction(harness.sessions) as session:
        session.execute(update(Job).values(not_before=None))
    assert harness.run(job_id, *program("building")) is JobState.SUCCEEDED
    assert [name for name in left(harness) if not name.startswith("caches/beef/")] == []


def test_uploads_go_with_success_and_stay_while_another_build_reads_them(harness: SupervisorHarness) -> None:
    upload = harness.settings.uploads_root / "u1"
    upload.mkdir(parents=True)
    (upload / "file.csv").write_text("x")
    first, second = (submit(harness, "d", {"panel": "upload:u1/file.csv"}) for _ in range(2))
    assert harness.run(first, *program("building")) is JobState.SUCCEEDED
    assert upload.exists()
    assert harness.run(second, *program("building")) is JobState.SUCCEEDED
    assert not upload.exists()
    third = submit(harness, "d", {"panel": "upload:u1/file.csv"})
    assert harness.run(third, *program("building")) is JobState.FAILED
    assert "send the file again" in (harness.job(third).message or "")


def test_an_upload_that_was_altered_is_not_built_from(harness: SupervisorHarness) -> None:
    upload = harness.settings.uploads_root / "u1"
    upload.mkdir(parents=True)
    for content, state in ((b"sent", JobState.SUCCEEDED), (b"5ent", JobState.FAILED)):
        upload.mkdir(exist_ok=True)
        (upload / "file.csv").write_bytes(content)
        job_id = submit(harness, "d", {"panel": "upload:u1/file.csv"}, sent=b"sent")
        assert harness.run(job_id, *program("building")) is state
    assert harness.job(job_id).reason is Reason.DATA_CHANGED
    assert "the panel file was altered on the server's disk" in (harness.job(job_id).message or "")


def test_cleanup_keeps_files_that_are_young_or_needed(harness: SupervisorHarness) -> None:
    roots = harness.settings.caches_root, harness.settings.uploads_root
    old = time.time() - 2 * orphans.MIN_AGE_SECONDS
    assert harness.run(submit(harness, "d"), *program("building")) is JobState.FAILED
    job_id = submit(harness, "d", planted=PLANTED)
    assert harness.run(job_id, *program("building")) is JobState.SUCCEEDED
    for name in ("beef", "orphan", "young", f"{caches.TRASH_PREFIX}x"):
        (roots[0] / name).mkdir(exist_ok=True)
        if name != "young":
            os.utime(roots[0] / name, (old, old))
    for name in ("orphan", "young", "arriving"):
        (roots[1] / name).mkdir(parents=True)
    (roots[1] / "arriving" / "file.csv").touch()  # an upload that has taken more than an hour and is still running
    for name in ("orphan", "arriving"):
        os.utime(roots[1] / name, (old, old))
    harness.submit()
    os.utime(roots[0] / "f00d", (old, old))  # no dataset has it, but an unfinished job needs it
    threads = [
        threading.Thread(target=orphans.remove_orphans, args=(harness.settings, harness.sessions)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in roots[0].iterdir()) == ["beef", "f00d", "young"]
    assert sorted(path.name for path in roots[1].iterdir()) == ["arriving", "young"]


def test_lineage(harness: SupervisorHarness) -> None:
    assert harness.run(submit(harness, "d", planted=PLANTED), *program("building")) is JobState.SUCCEEDED
    with transaction(harness.sessions) as session:
        jobs = [
            submission.submit(
                session,
                submission.NewJob(
                    kind=JobKind.TRAIN, spec={}, spec_digest="x", queue="cpu", dataset=name, dataset_fingerprint="beef"
                ),
            ).job.id
            for name in ("d", "d", "other")
        ]
        lifecycle.want(session, jobs[0], Wanted.CANCEL, by="test")
        [row] = [row for row, _ in catalog.dataset_versions(session, "d")]
        assert catalog.usage(session, [row]) == {row.id: (2, 1)}
        assert {
            job.id for job in queries.page(session, queries.JobFilter(dataset="d@1", kind=JobKind.TRAIN))[0]
        } == set(jobs[:2])
        assert queries.page(session, queries.JobFilter(dataset="d@2"))[0] == []
        lifecycle.want(session, jobs[1], Wanted.CANCEL, by="test")
        catalog.delete_dataset(session, "d@1")
        assert (
            len(queries.page(session, queries.JobFilter(dataset="d@1"))[0]) == 3
        )  # the build and both jobs, after the deletion too
