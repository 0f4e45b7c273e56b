"""Which files of finished jobs are removed and which are kept, and the warning of a full disk."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from atft.checksums import sha256_of
from atft.events import Checkpointed
from jobs.db.session import transaction
from jobs.db.tables import Job, JobEvent
from jobs.ops import doctor, retention
from jobs.record import catalog, history, lifecycle, queries, submission
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason
from tests.integration.api.application import Sessions
from worker.upkeep.janitor import Janitor

FILES = ("log.txt", "spec.json", "model.bin", "checkpoints/0001/state.pt")
Make = Callable[..., UUID]


@pytest.fixture
def make(settings: Settings, sessions: Sessions) -> Make:
    """A job with two attempts' files, `model.bin` of the second an artifact; it ended `days` ago."""

    def made(
        to: JobState | None = JobState.SUCCEEDED,
        days: float = 1000,
        kind: JobKind = JobKind.TRAIN,
        tags: dict[str, str] | None = None,
        parent_id: UUID | None = None,
        source_job_id: UUID | None = None,
    ) -> UUID:
        with transaction(sessions) as session:
            job_id = submission.submit(
                session,
                submission.NewJob(
                    kind=kind,
                    spec={},
                    spec_digest="d",
                    queue="cpu",
                    tags=tags or {},
                    parent_id=parent_id,
                    source_job_id=source_job_id,
                ),
            ).job.id
            for attempt in (1, 2):
                job = lifecycle.claim(session, job_id, worker="w", host="h", device="cpu", lease_seconds=60)
                assert job is not None
                folder = settings.jobs_root / str(job_id) / str(attempt)
                for name in FILES:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes(b"x" * 100)
                if attempt == 1:
                    lifecycle.requeue(
                        session,
                        job_id,
                        1,
                        lifecycle.AttemptEnd(reason=Reason.DRAINED, message="m"),
                        counts_as_failure=False,
                    )
            saved = Checkpointed(child_seq=1, path="2/checkpoints/0001", step=1, epoch=1, sha256="0")
            history.append(session, job_id, 2, [saved])
            path = f"jobs/{job_id}/2/model.bin"
            sha256 = sha256_of(settings.run_root / path)
            catalog.add_artifact(
                session,
                job_id,
                2,
                name="model.bin",
                path=path,
                size_bytes=100,
                sha256=sha256,
                media_type="a/b",
            )
            if to is not None:
                lifecycle.settle(session, job_id, 2, to)
                past = sa.func.now() - timedelta(days=days)
                session.execute(sa.update(Job).where(Job.id == job_id).values(finished_at=past))
        return job_id

    return made


def left(settings: Settings, job_id: UUID) -> set[str]:
    folder = settings.jobs_root / str(job_id)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def remove(sessions: Sessions, settings: Settings) -> list[retention.Removal]:
    return retention.remove(sessions, settings, retention.job_folders(settings))


def everything() -> set[str]:
    return {f"{attempt}/{name}" for attempt in (1, 2) for name in FILES}


def checkpoint(sessions: Sessions, job_id: UUID) -> object:
    with transaction(sessions) as session:
        return queries.get(session, job_id).checkpoint


def test_files_are_removed_by_the_age_of_their_job(settings: Settings, sessions: Sessions, make: Make) -> None:
    young, weeks, old = make(days=1), make(to=JobState.FAILED, days=20), make(days=1000)
    with transaction(sessions) as session:
        due = {
            removal.job_id: removal for removal in retention.plan(session, settings, retention.job_folders(settings))
        }
    assert set(due) == {weeks, old}
    assert left(settings, old) == everything()  # a dry run removes nothing
    assert due[old].size_bytes == 700
    assert {removal.job_id for removal in remove(sessions, settings)} == {weeks, old}
    assert left(settings, young) == everything()
    assert left(settings, weeks) == {"1/log.txt", "2/log.txt", "2/model.bin"}
    assert left(settings, old) == {"2/model.bin"}
    assert not (settings.jobs_root / str(old) / "1").exists()
    assert checkpoint(sessions, young) is not None
    assert checkpoint(sessions, weeks) is None  # a retry starts over without a checkpoint
    assert remove(sessions, settings) == []
    with transaction(sessions) as session:
        assert [row.name for row in catalog.artifacts(session, old)] == ["model.bin"]


def test_files_that_other_jobs_need_are_kept(settings: Settings, sessions: Sessions, make: Make) -> None:
    running, pinned, source = make(to=None), make(tags={"pinned": "yes"}), make(to=JobState.FAILED)
    retry = make(to=None, source_job_id=source)
    with transaction(sessions) as session:
        goes_on = {"path": f"../{source}/2/checkpoints/0001", "step": 1, "epoch": 1, "sha256": "0"}
        session.execute(sa.update(Job).where(Job.id == retry).values(checkpoint=goes_on))
    removed = [removal.job_id for removal in remove(sessions, settings)]
    assert removed == [source]
    assert left(settings, source) == everything() - {"1/log.txt", "2/log.txt"}
    assert checkpoint(sessions, source) is not None
    for job in (running, pinned, retry):
        assert left(settings, job) == everything()
    unknown = settings.jobs_root / "019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21" / "1" / "model.bin"
    unknown.parent.mkdir(parents=True)
    unknown.touch()
    assert remove(sessions, settings) == []
    assert unknown.exists()


@pytest.mark.parametrize("over", [True, False])
def test_the_files_of_the_best_trial_are_kept(settings: Settings, sessions: Sessions, make: Make, over: bool) -> None:
    with transaction(sessions) as session:
        study = submission.submit(
            session, submission.NewJob(kind=JobKind.HPO, spec={}, spec_digest="d", queue="control")
        ).job.id
        assert lifecycle.begin_study(session, study) is not None
    best, other, promoted = (make(kind=JobKind.TRIAL, parent_id=study) for _ in range(3))
    make(source_job_id=promoted, days=0)
    with transaction(sessions) as session:
        history.set_best(session, study, 1, {"job_id": str(best)})
        if over:
            lifecycle.settle(session, study, 1, JobState.SUCCEEDED)
    remove(sessions, settings)
    for job in (best, promoted):
        assert left(settings, job) == {"2/model.bin"}
    assert left(settings, other) == (set() if over else {"2/model.bin"})
    with transaction(sessions) as session:
        assert [row.name for row in catalog.artifacts(session, other)] == ([] if over else ["model.bin"])


def test_pain_41_running_jobs_are_warned_of_a_full_disk_once(
    settings: Settings, sessions: Sessions, make: Make
) -> None:
    running, over = make(to=None), make(days=0)
    published: list[UUID] = []
    clock = iter(range(1000))
    full = settings.model_copy(update={"min_free_bytes": 2**60})
    janitor = Janitor(full, sessions, published.append, lambda: float(next(clock)))
    janitor.run_once()
    janitor.run_once()
    assert published == [running]
    with transaction(sessions) as session:
        logs = sa.select(JobEvent.job_id, JobEvent.body).where(JobEvent.kind == "log")
        ((job_id, body),) = session.execute(logs).all()
    assert (job_id, body["level"]) == (running, "warning")
    assert "GB left" in body["message"]
    assert left(settings, over) == everything()


def test_janitor_runs_at_most_once_per_interval(settings: Settings, sessions: Sessions, make: Make) -> None:
    time = [0.0]
    janitor = Janitor(settings, sessions, lambda _: None, lambda: time[0])
    janitor.run_once()
    old = make()
    janitor.run_once()
    assert left(settings, old) == everything()
    time[0] = 3601
    janitor.run_once()
    assert left(settings, old) == {"2/model.bin"}


def test_doctor_reports_inconsistencies(settings: Settings, sessions: Sessions, make: Make) -> None:
    def checks() -> dict[str, doctor.Check]:
        names = {name: doctor.CHECKS[name] for name in ("leases", "files", "orphans", "retention")}
        return {check.name: check for check in doctor.doctor(settings, names)}

    job = make()
    with transaction(sessions) as session:  # a retry that has not started has no folder of its own
        retry = submission.submit(
            session, submission.NewJob(kind=JobKind.TRAIN, spec={}, spec_digest="d", queue="cpu")
        ).job
        manifest = settings.jobs_root / str(job) / "2" / "checkpoints" / "0001" / "manifest.json"
        manifest.write_text('{"files": {}}')
        sha256 = sha256_of(manifest)
        retry.checkpoint = {"path": f"../{job}/2/checkpoints/0001", "step": 1, "epoch": 1, "sha256": sha256}
    assert all(check.ok for check in checks().values())
    assert str(job) in checks()["retention"].detail
    stuck = make(to=None)
    with transaction(sessions) as session:
        late = sa.func.now() - timedelta(minutes=10)
        session.execute(sa.update(Job).where(Job.id == stuck).values(lease_until=late))
    weights = settings.jobs_root / str(job) / "2" / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    manifest.write_text('{"files": {} }')
    Path(settings.caches_root / "nobodys").mkdir(parents=True)
    found = checks()
    assert str(stuck) in found["leases"].detail
    assert f"model.bin of job {job}" in found["files"].detail
    assert f"the checkpoint of job {retry.id}" in found["files"].detail
    assert "caches/nobodys" in found["orphans"].detail
    assert [name for name, check in found.items() if not check.ok] == ["leases", "files"]
