"""A study ends although its advances fail: with the words of an error that comes again, or by its own bounds."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import optuna
import pytest
from optuna.storages import BaseStorage
from sqlalchemy import func, text, update
from sqlalchemy.orm import Session, sessionmaker

from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.record import history
from jobs.settings import Settings
from jobs.states import JobState, Reason, Wanted
from tests.integration.worker.study_harness import StudyHarness, open_harness
from worker.studies.advance import advance


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> Iterator[StudyHarness]:
    with open_harness(settings, sessions) as harness:
        yield harness


@contextmanager
def broken_optuna(harness: StudyHarness) -> Iterator[None]:
    """A table of Optuna's is gone: every look at the trials raises, though Postgres is there."""
    rename = "ALTER TABLE optuna.{} RENAME TO {}"
    with transaction(harness.sessions) as session:
        session.execute(text(rename.format("trial_params", "gone")))
    yield
    with transaction(harness.sessions) as session:
        session.execute(text(rename.format("gone", "trial_params")))


def errors(harness: StudyHarness, study: UUID) -> list[str]:
    with transaction(harness.sessions) as session:
        logs = [e.body for e in history.read_after(session, study, 0) if e.kind == "log"]
    return [log["message"] for log in logs if log["level"] == "error"]


def test_an_error_ends_a_study_when_it_comes_again(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=2)
    harness.run_preflight(study)
    with broken_optuna(harness):
        assert study in harness.advance(study).changed
        job = harness.job(study)
        assert (job.state, job.reason, job.failures) == (JobState.RUNNING, None, 1)
        assert (job.message or "").startswith("an advance failed, the next one tries again: StorageInternalError")
    harness.advance(study)
    job = harness.job(study)
    assert (job.state, job.failures, job.message) == (JobState.RUNNING, 0, None)
    [trial] = harness.children(study)
    assert harness.claim(trial)
    with broken_optuna(harness):
        harness.advance(study)
        assert trial.id in harness.advance(study).changed
    assert (harness.job(study).state, harness.job(trial.id).wanted) == (JobState.RUNNING, Wanted.CANCEL)
    harness.settle(trial, JobState.CANCELLED, Reason.USER)
    harness.advance(study)
    job = harness.job(study)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.INTERNAL)
    assert (job.message or "").startswith("two advances in a row failed: StorageInternalError")
    assert 'relation "trial_params" does not exist' in (job.message or "")
    assert len(errors(harness, study)) == 3


def test_a_study_times_out_although_its_advances_fail_and_a_trial_never_starts(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=2, parallelism=2, timeout_seconds=3600)
    harness.run_preflight(study)
    harness.advance(study)
    trial, waiting = harness.children(study)
    assert harness.claim(trial)
    with transaction(harness.sessions) as session:
        past = func.now() - text("interval '2 hours'")
        session.execute(update(Job).where(Job.id == study).values(started_at=past))
    with broken_optuna(harness):
        harness.advance(study)
        assert harness.job(trial.id).wanted is Wanted.CANCEL
        assert harness.job(waiting.id).state is JobState.CANCELLED
        harness.settle(trial, JobState.CANCELLED, Reason.USER)
        for _ in range(2):
            harness.advance(study)
    job = harness.job(study)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.TIMEOUT_EXEC)


def test_an_outage_of_postgres_is_no_error_of_a_study(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=2)
    harness.run_preflight(study)

    def away() -> BaseStorage:
        return optuna.storages.RDBStorage("postgresql+psycopg://nobody@127.0.0.1:1/none", skip_table_creation=True)

    for _ in range(3):
        assert advance(harness.sessions, away, harness.settings, study).hints == []
    job = harness.job(study)
    assert (job.state, job.failures, job.message) == (JobState.RUNNING, 0, None)
    assert errors(harness, study) == []


def test_a_study_ends_by_the_rules_of_its_time_unless_its_spec_cannot_be_read(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=2)
    harness.run_preflight(study)
    harness.advance(study)
    [trial] = harness.children(study)
    earlier = (  # a range that is refused now as too narrow to search
        "UPDATE jobs SET spec = jsonb_set(spec, '{space,optimizer.lr,high}', '1.0000000000000002e-5') WHERE id = :id"
    )
    with transaction(harness.sessions) as session:
        session.execute(text(earlier), {"id": study})
    harness.run(trial)
    harness.advance(study)
    assert (harness.job(study).state, harness.job(study).failures) == (JobState.RUNNING, 0)
    [_, trial] = harness.children(study)
    unknown = "UPDATE jobs SET spec = jsonb_set(spec, '{space,optimizer.lr,kind}', '\"other\"') WHERE id = :id"
    with transaction(harness.sessions) as session:
        session.execute(text(unknown), {"id": study})
    harness.advance(study)
    job = harness.job(study)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.INVALID_PARAMS)
    assert "is not valid for this version" in (job.message or "")
    assert harness.job(trial.id).state is JobState.CANCELLED
