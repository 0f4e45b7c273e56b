"""Datasets: versions by content, and no deletion while a job needs the version."""

import threading
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import Dataset
from jobs.errors import DatasetBusy, DatasetNotFound
from jobs.record import catalog, lifecycle, queries, submission
from jobs.states import JobKind, Wanted

Sessions = sessionmaker[Session]


def register(sessions: Sessions, name: str, fingerprint: str, num_days: int = 5) -> Dataset:
    with transaction(sessions) as session:
        job = submission.submit(
            session, submission.NewJob(kind=JobKind.DATASET, spec={}, spec_digest="d", queue="cpu")
        ).job
    with transaction(sessions) as session:
        content: dict[str, Any] = {"spec": {}, "manifest": {"num_days": num_days}, "profile": {}, "leak_report": {}}
        row = catalog.register_dataset(
            session,
            job,
            catalog.NewDataset(
                name=name, fingerprint=fingerprint, path=f"caches/{fingerprint}", size_bytes=9, **content
            ),
        )
        lifecycle.want(session, job.id, Wanted.CANCEL, by="test")
        assert queries.get(session, job.id).dataset_fingerprint == fingerprint
        return row


def submit(sessions: Sessions, dataset: str, fingerprint: str) -> UUID:
    with transaction(sessions) as session:
        return submission.submit(
            session,
            submission.NewJob(
                kind=JobKind.TRAIN,
                spec={},
                spec_digest="d",
                queue="cpu",
                dataset=dataset,
                dataset_fingerprint=fingerprint,
            ),
        ).job.id


def test_same_content_is_the_same_version(sessions: Sessions) -> None:
    first, again, second = (
        register(sessions, "us", "f1"),
        register(sessions, "us", "f1"),
        register(sessions, "us", "f2"),
    )
    assert (first.id, first.version, second.version) == (again.id, 1, 2)
    register(sessions, "eu-too", "f1", num_days=6)  # all versions describe the cache as it is now
    with transaction(sessions) as session:
        assert [catalog.dataset(session, ref).manifest["num_days"] for ref in ("us@1", "us@2", "eu-too")] == [6, 5, 6]
        assert catalog.dataset(session, "us").fingerprint == "f2"
        assert catalog.dataset(session, "us@1").fingerprint == "f1"
        assert [row.version for row, _ in catalog.dataset_versions(session, "us")] == [2, 1]
        for ref in ("eu", "us@3", "us@x", "us@", "us@99999999999999999999"):
            with pytest.raises(DatasetNotFound):
                catalog.dataset(session, ref)


def test_listing_shows_the_newest_version_of_each_name(sessions: Sessions) -> None:
    for name, fingerprint in (("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")):
        register(sessions, name, fingerprint)
    with transaction(sessions) as session:
        first, cursor = catalog.datasets(session, limit=2)
        rest, end = catalog.datasets(session, cursor=cursor, limit=2)
    assert [(row.name, row.version) for row in first + rest] == [("c", 1), ("a", 2), ("b", 1)]
    assert end is None


def test_deleting_waits_for_the_jobs_that_need_it(sessions: Sessions) -> None:
    register(sessions, "us", "f1")
    register(sessions, "copy", "f1")
    register(sessions, "us", "f2")
    job_id = submit(sessions, "us@1", "f1")
    with transaction(sessions) as session, pytest.raises(DatasetBusy, match=str(job_id)):
        catalog.delete_dataset(session, "us")
    with transaction(sessions) as session:
        lifecycle.want(session, job_id, Wanted.CANCEL, by="test")
    with transaction(sessions) as session:
        assert sorted(row.path for row in catalog.delete_dataset(session, "us")) == ["caches/f1", "caches/f2"]
    with transaction(sessions) as session:
        with pytest.raises(DatasetNotFound):
            catalog.dataset(session, "us")
        with pytest.raises(DatasetNotFound):
            catalog.delete_dataset(session, "us")
        assert catalog.dataset(session, "copy").version == 1
    with pytest.raises(DatasetNotFound, match="was deleted"):
        submit(sessions, "us", "f2")
    assert register(sessions, "us", "f2").version == 3


def test_submit_and_delete_at_once_do_not_both_win(sessions: Sessions) -> None:
    for round_number in range(5):
        name = f"d{round_number}"
        register(sessions, name, name)
        won: list[str] = []
        barrier = threading.Barrier(2)

        def train(name: str = name, won: list[str] = won, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                submit(sessions, name, name)
                won.append("train")
            except DatasetNotFound:
                pass

        thread = threading.Thread(target=train)
        thread.start()
        barrier.wait()
        try:
            with transaction(sessions) as session:
                catalog.delete_dataset(session, name)
            won.append("delete")
        except DatasetBusy:
            pass
        thread.join()
        assert len(won) == 1
