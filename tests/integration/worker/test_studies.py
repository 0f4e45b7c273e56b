"""Studies on a real Postgres with Optuna's real tables: how trials are suggested, numbered and recorded."""

import json
import threading
from collections.abc import Iterator
from uuid import UUID

import pytest
from optuna.trial import TrialState
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from atft.spec.study import HpoSpec, Scalar
from jobs.db.session import transaction
from jobs.db.tables import Attempt, JobEvent
from jobs.record import catalog, history, lifecycle, queries
from jobs.settings import Settings
from jobs.states import TERMINAL, JobKind, JobState, Wanted
from tests.integration.worker.study_harness import SPACE, StudyHarness, improving_objective, open_harness
from worker.studies.samplers import non_adaptive_point
from worker.upkeep.sweeper import Sweeper


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> Iterator[StudyHarness]:
    with open_harness(settings, sessions) as harness:
        yield harness


def test_pain_37_a_finished_study_has_the_values_of_its_own_trials(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=6, parallelism=2)
    job = harness.run_study(study)
    assert (job.state, job.reason, job.attempt, job.lease_until) == (JobState.SUCCEEDED, None, 1, None)
    trials = harness.children(study)
    assert [t.trial_number for t in trials] == list(range(6))
    for trial, frozen in zip(trials, harness.optuna(study), strict=True):
        value = improving_objective(trial.params or {}, 0)[-1]  # type: ignore[index]
        assert (frozen.state, frozen.value, frozen.params) == (TrialState.COMPLETE, pytest.approx(value), trial.params)
        assert frozen.intermediate_values == pytest.approx({1: value / 2, 2: value})
        assert trial.spec["optimizer"]["lr"] == (trial.params or {})["optimizer.lr"]
        assert trial.spec["baselines"] is False
    best = max(trials, key=lambda t: t.best["value"])  # type: ignore[index]
    assert job.best is not None
    assert (job.best["trial"], job.best["job_id"]) == (best.trial_number, str(best.id))
    assert job.progress is not None
    assert (job.progress["step"], job.progress["steps"], job.progress["ratio"]) == (6, 6, 1.0)
    with transaction(harness.sessions) as session:
        assert [row.name for row in catalog.artifacts(session, study)] == ["importance.json"]
    assert harness.advance(study).hints == []
    with transaction(harness.sessions) as session:
        files = {row.name: harness.settings.run_root / row.path for row in catalog.artifacts(session, study)}
        logs = [e.body["message"] for e in history.read_after(session, study, 0) if e.kind == "log"]
    assert set(files) == {
        f"{n}.json"
        for n in ("importance", "history", "intermediate_values", "parallel_coordinate", "slice", "timeline")
    }
    importance = json.loads(files["importance.json"].read_text())
    assert set(importance["importance"]) == set(SPACE)
    assert sum(importance["importance"].values()) == pytest.approx(1)
    assert json.loads(files["history.json"].read_text())["data"]
    assert len([line for line in logs if "succeeded: val/rank_ic" in line]) == 6


@pytest.mark.parametrize("parallelism", [1, 2, 4])
def test_pain_37_random_trials_are_the_same_for_any_number_of_workers(harness: StudyHarness, parallelism: int) -> None:
    study = harness.submit(n_trials=5, parallelism=parallelism)
    harness.run_study(study)
    spec = HpoSpec.model_validate(harness.job(study).spec)
    assert [t.params for t in harness.children(study)] == [non_adaptive_point(spec, n) for n in range(5)]


def test_exactly_n_trials_with_eight_concurrent_advances(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=12, parallelism=4)
    harness.run_preflight(study)
    seen: list[int] = []
    errors: list[BaseException] = []

    def advance_and_work(index: int) -> None:
        try:
            for _ in range(200):
                harness.advance(study)
                unfinished = harness.children(study, unfinished=True)
                seen.append(len(unfinished))
                if harness.job(study).state in TERMINAL:
                    return
                for job in unfinished[index % 4 : index % 4 + 1]:
                    harness.run(job)
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=advance_and_work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert errors == []
    assert harness.job(study).state is JobState.SUCCEEDED
    assert max(seen) <= 4
    assert [t.trial_number for t in harness.children(study)] == list(range(12))
    assert harness.states(study) == [TrialState.COMPLETE] * 12


def test_a_crash_between_ask_and_commit_is_adopted(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=3)
    harness.run_preflight(study)
    harness.crash_before_commit(study)
    assert harness.children(study) == []
    assert harness.states(study) == [TrialState.RUNNING]
    harness.advance(study)
    [adopted] = harness.children(study)
    assert (adopted.trial_number, adopted.params) == (0, harness.optuna(study)[0].params)
    assert harness.run_study(study).state is JobState.SUCCEEDED
    assert harness.states(study) == [TrialState.COMPLETE] * 3
    assert len(harness.children(study)) == 3


def test_enqueued_points_come_first_once_each(harness: StudyHarness) -> None:
    points: list[dict[str, Scalar]] = [{"optimizer.lr": 5e-4, "model.gat_layers": 2}, {"model.gat_layers": 3}]
    study = harness.submit(n_trials=4, parallelism=2, enqueue=points)
    harness.run_study(study)
    params = [t.params or {} for t in harness.children(study)]
    assert params[0] == points[0]
    assert params[1]["model.gat_layers"] == 3
    assert len(harness.optuna(study)) == 4
    spec = HpoSpec.model_validate(harness.job(study).spec)
    assert params[2:] == [non_adaptive_point(spec, n) for n in (2, 3)]


def test_a_grid_is_run_exactly(harness: StudyHarness) -> None:
    space = {
        "model.gat_layers": SPACE["model.gat_layers"],
        "optimizer.lr": {"kind": "categorical", "choices": [1e-4, 1e-3]},
    }
    study = harness.submit(space=space, sampler={"name": "grid"}, n_trials=20, parallelism=3)
    harness.run_study(study)
    points = {tuple((t.params or {}).values()) for t in harness.children(study)}
    assert len(harness.children(study)) == 8
    assert {layers for layers, _ in points} == {1, 2, 3, 4} or {layers for _, layers in points} == {1, 2, 3, 4}
    assert len(points) == 8


def test_a_study_is_never_claimed_nor_does_it_expire(harness: StudyHarness) -> None:
    study = harness.submit()
    assert not harness.claim(harness.job(study))
    harness.advance(study)
    with transaction(harness.sessions) as session:
        assert queries.expired(session, 10) == []
        assert session.get_one(Attempt, (study, 1)).worker == "control"
        assert [job.id for job in queries.active_studies(session, 10)] == [study]
        assert [job.kind for job in queries.due_jobs(session, "cpu", -1, 10)] == [JobKind.PREFLIGHT]


def test_the_sweep_hints_active_studies_repeatedly(harness: StudyHarness) -> None:
    study, over = harness.submit(), harness.submit()
    with transaction(harness.sessions) as session:
        lifecycle.want(session, over, Wanted.CANCEL, by="test")
    hinted: list[tuple[str, UUID]] = []
    sweeper = Sweeper(
        harness.sessions,
        60,
        hint=lambda queue, job_id, _: hinted.append((queue, job_id)),
        queue_is_empty=lambda _: True,
        publish=lambda _: None,
    )
    sweeper.sweep()
    harness.advance(study)
    sweeper.sweep()
    assert hinted == [("control", study)] * 2


def test_plots_that_a_killed_process_did_not_draw_are_drawn_later(harness: StudyHarness) -> None:
    study, without_trials = harness.submit(n_trials=1), harness.submit()
    harness.run_study(study)
    with transaction(harness.sessions) as session:
        lifecycle.want(session, without_trials, Wanted.CANCEL, by="test")
        assert [job.id for job in queries.studies_without_plots(session, 10)] == [study]
    harness.advance(study)
    with transaction(harness.sessions) as session:
        assert "timeline.json" in {row.name for row in catalog.artifacts(session, study)}
        assert queries.studies_without_plots(session, 10) == []


def test_priority_of_a_study_is_that_of_its_trials(harness: StudyHarness) -> None:
    study = harness.submit(parallelism=2)
    harness.run_preflight(study)
    harness.advance(study)
    with transaction(harness.sessions) as session:
        changed = lifecycle.set_priority(session, study, 1, by="test")
    assert [job.id for job in changed] == [study, *sorted(job.id for job in harness.children(study))]
    assert {job.priority for job in harness.children(study)} == {1}
    assert harness.job(harness.children(study, JobKind.PREFLIGHT)[0].id).priority == 5


def test_optuna_has_a_database_schema_of_its_own(harness: StudyHarness) -> None:
    query = text(
        "SELECT table_schema FROM information_schema.tables WHERE table_name IN ('studies', 'alembic_version')"
    )
    with transaction(harness.sessions) as session:
        assert set(session.scalars(query)) == {"optuna"}


def test_history_of_a_study_has_no_gap(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=2)
    harness.run_study(study)
    with transaction(harness.sessions) as session:
        seqs = list(session.scalars(select(JobEvent.seq).where(JobEvent.job_id == study).order_by(JobEvent.seq)))
    assert seqs == list(range(1, len(seqs) + 1))
