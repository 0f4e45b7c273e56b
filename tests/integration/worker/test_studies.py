"""Studies on a real Postgres with Optuna's real tables: who asks, how often, what is kept."""

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
from tests.integration.worker.study_bench import SPACE, Bench, climbing, opened
from worker.studies.sampling import designed_point
from worker.upkeep.sweeper import Sweeper


@pytest.fixture
def bench(settings: Settings, sessions: sessionmaker[Session]) -> Iterator[Bench]:
    with opened(settings, sessions) as bench:
        yield bench


def test_pain_37_a_study_ends_with_every_number_its_trials_own(bench: Bench) -> None:
    study = bench.submit(n_trials=6, parallelism=2)
    job = bench.work(study)
    assert (job.state, job.reason, job.attempt, job.lease_until) == (JobState.SUCCEEDED, None, 1, None)
    trials = bench.children(study)
    assert [t.trial_number for t in trials] == list(range(6))
    for trial, frozen in zip(trials, bench.optuna(study), strict=True):
        value = climbing(trial.params or {}, 0)[-1]  # type: ignore[index]
        assert (frozen.state, frozen.value, frozen.params) == (TrialState.COMPLETE, pytest.approx(value), trial.params)
        assert frozen.intermediate_values == pytest.approx({1: value / 2, 2: value})
        assert trial.spec["optimizer"]["lr"] == (trial.params or {})["optimizer.lr"]
        assert trial.spec["baselines"] is False
    best = max(trials, key=lambda t: t.best["value"])  # type: ignore[index]
    assert job.best is not None
    assert (job.best["trial"], job.best["job_id"]) == (best.trial_number, str(best.id))
    assert job.progress is not None
    assert (job.progress["step"], job.progress["steps"], job.progress["ratio"]) == (6, 6, 1.0)
    with transaction(bench.sessions) as session:
        files = {row.name: bench.settings.run_root / row.path for row in catalog.artifacts(session, study)}
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
    assert bench.advance(study).hints == []


@pytest.mark.parametrize("parallelism", [1, 2, 4])
def test_pain_37_random_trials_are_the_same_for_any_number_of_workers(bench: Bench, parallelism: int) -> None:
    study = bench.submit(n_trials=5, parallelism=parallelism)
    bench.work(study)
    spec = HpoSpec.model_validate(bench.job(study).spec)
    assert [t.params for t in bench.children(study)] == [designed_point(spec, n) for n in range(5)]


def test_exactly_n_trials_with_eight_advances_at_a_time(bench: Bench) -> None:
    study = bench.submit(n_trials=12, parallelism=4)
    bench.preflight(study)
    seen: list[int] = []
    errors: list[BaseException] = []

    def advance_and_work(index: int) -> None:
        try:
            for _ in range(200):
                bench.advance(study)
                alive = bench.children(study, alive=True)
                seen.append(len(alive))
                if bench.job(study).state in TERMINAL:
                    return
                for job in alive[index % 4 : index % 4 + 1]:
                    bench.run(job)
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=advance_and_work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert errors == []
    assert bench.job(study).state is JobState.SUCCEEDED
    assert max(seen) <= 4
    assert [t.trial_number for t in bench.children(study)] == list(range(12))
    assert bench.states(study) == [TrialState.COMPLETE] * 12


def test_a_crash_between_ask_and_commit_is_adopted(bench: Bench) -> None:
    study = bench.submit(n_trials=3)
    bench.preflight(study)
    bench.crash(study)
    assert bench.children(study) == []
    assert bench.states(study) == [TrialState.RUNNING]
    bench.advance(study)
    [adopted] = bench.children(study)
    assert (adopted.trial_number, adopted.params) == (0, bench.optuna(study)[0].params)
    assert bench.work(study).state is JobState.SUCCEEDED
    assert bench.states(study) == [TrialState.COMPLETE] * 3
    assert len(bench.children(study)) == 3


def test_enqueued_points_come_first_once_each(bench: Bench) -> None:
    points: list[dict[str, Scalar]] = [{"optimizer.lr": 5e-4, "model.gat_layers": 2}, {"model.gat_layers": 3}]
    study = bench.submit(n_trials=4, parallelism=2, enqueue=points)
    bench.work(study)
    params = [t.params or {} for t in bench.children(study)]
    assert params[0] == points[0]
    assert params[1]["model.gat_layers"] == 3
    assert len(bench.optuna(study)) == 4
    spec = HpoSpec.model_validate(bench.job(study).spec)
    assert params[2:] == [designed_point(spec, n) for n in (2, 3)]


def test_a_grid_is_run_exactly(bench: Bench) -> None:
    space = {
        "model.gat_layers": SPACE["model.gat_layers"],
        "optimizer.lr": {"kind": "categorical", "choices": [1e-4, 1e-3]},
    }
    study = bench.submit(space=space, sampler={"name": "grid"}, n_trials=20, parallelism=3)
    bench.work(study)
    points = {tuple((t.params or {}).values()) for t in bench.children(study)}
    assert len(bench.children(study)) == 8
    assert {layers for layers, _ in points} == {1, 2, 3, 4} or {layers for _, layers in points} == {1, 2, 3, 4}
    assert len(points) == 8


def test_a_study_is_never_claimed_nor_does_it_expire(bench: Bench) -> None:
    study = bench.submit()
    assert not bench.claim(bench.job(study))
    bench.advance(study)
    with transaction(bench.sessions) as session:
        assert queries.expired(session, 10) == []
        assert session.get_one(Attempt, (study, 1)).worker == "control"
        assert [job.id for job in queries.active_studies(session, 10)] == [study]
        assert [job.kind for job in queries.due_jobs(session, "cpu", -1, 10)] == [JobKind.PREFLIGHT] * 2


def test_the_sweep_asks_active_studies_again_and_again(bench: Bench) -> None:
    study, over = bench.submit(), bench.submit()
    with transaction(bench.sessions) as session:
        lifecycle.want(session, over, Wanted.CANCEL, by="test")
    hinted: list[tuple[str, UUID]] = []
    sweeper = Sweeper(
        bench.sessions,
        60,
        hint=lambda queue, job_id, _: hinted.append((queue, job_id)),
        drained=lambda _: True,
        publish=lambda _: None,
    )
    sweeper.sweep()
    bench.advance(study)
    sweeper.sweep()
    assert hinted == [("control", study)] * 2


def test_priority_of_a_study_is_that_of_its_trials(bench: Bench) -> None:
    study = bench.submit(parallelism=2)
    bench.preflight(study)
    bench.advance(study)
    with transaction(bench.sessions) as session:
        changed = lifecycle.set_priority(session, study, 1, by="test")
    assert [job.id for job in changed] == [study, *sorted(job.id for job in bench.children(study))]
    assert {job.priority for job in bench.children(study)} == {1}
    assert bench.job(bench.children(study, JobKind.PREFLIGHT)[0].id).priority == 5


def test_optunas_tables_stand_in_their_own_schema(bench: Bench) -> None:
    query = text(
        "SELECT table_schema FROM information_schema.tables WHERE table_name IN ('studies', 'alembic_version')"
    )
    with transaction(bench.sessions) as session:
        assert set(session.scalars(query)) == {"optuna"}


def test_history_of_a_study_has_no_gap(bench: Bench) -> None:
    study = bench.submit(n_trials=2)
    bench.work(study)
    with transaction(bench.sessions) as session:
        seqs = list(session.scalars(select(JobEvent.seq).where(JobEvent.job_id == study).order_by(JobEvent.seq)))
    assert seqs == list(range(1, len(seqs) + 1))
