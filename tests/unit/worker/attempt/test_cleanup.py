"""Temporary files of an attempt: what is removed, and what stays."""

from pathlib import Path
from uuid import UUID

import pytest

from jobs.db.tables import Job
from jobs.settings import Settings
from jobs.states import JobKind
from worker.attempt.cleanup import entries, remove, remove_scratch

JOB_ID = UUID(int=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(run_root=tmp_path / "runs")
    for attempt in ("1", "2"):
        folder = settings.jobs_root / str(JOB_ID) / attempt
        (folder / "cache").mkdir(parents=True)
        (folder / ".cache.tmp").mkdir()
        (folder / "log.txt").write_text("log")
    return settings


def names(settings: Settings, attempt: int) -> list[str]:
    return sorted(path.name for path in entries(settings.jobs_root / str(JOB_ID) / str(attempt)))


def test_scratch_of_every_attempt_is_removed_and_the_log_stays(settings: Settings) -> None:
    remove_scratch(settings, Job(id=JOB_ID, kind=JobKind.DATASET))
    assert [names(settings, attempt) for attempt in (1, 2)] == [["log.txt"]] * 2


def test_scratch_of_the_running_attempt_stays(settings: Settings) -> None:
    remove_scratch(settings, Job(id=JOB_ID, kind=JobKind.DATASET), before=2)
    assert names(settings, 1) == ["log.txt"]
    assert names(settings, 2) == [".cache.tmp", "cache", "log.txt"]


def test_a_training_keeps_its_files(settings: Settings) -> None:
    remove_scratch(settings, Job(id=JOB_ID, kind=JobKind.TRAIN))
    assert names(settings, 1) == [".cache.tmp", "cache", "log.txt"]


def test_a_symbolic_link_is_removed_without_its_target(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    remove(tmp_path / "link")
    assert entries(tmp_path) == [target]
    assert entries(tmp_path / "missing") == []
