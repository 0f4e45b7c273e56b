"""Studies on a real Postgres with Optuna's real tables; the trials are run as a worker would, without a child."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from atft.events import Metrics
from atft.spec.search import HpoSpec, Scalar
from jobs import history, store
from jobs.session import transaction
from jobs.settings import Settings
from jobs.states import TERMINAL, JobKind, JobState, Reason, Wanted
from jobs.tables import Attempt, Job, JobEvent
from worker.sampling import designed_point, open_storage
from worker.search import News, Step, advance
from worker.sweeper import Sweeper

METRIC = "val/rank_ic"
SPACE = {
    "optimizer.lr": {"kind": "float", "low": 1e-5, "high": 1e-3, "log": True},
    "model.gat_layers": {"kind": "int", "low": 1, "high": 4},
}
Outcome = list[float | None] | Reason
Objective = Callable[[dict[str, Scalar], int], Outcome]


def climbing(params: dict[str, Scalar], number: int) -> Outcome:
    """Two epochs, the second the best, a value of the parameters alone."""
    value = float(params["optimizer.lr"]) * 100 + float(params["model.gat_layers"]) / 100  # type: ignore[arg-type]
    return [value / 2, value]


@dataclass
class Bench:
    settings: Settings
    sessions: sessionmaker[Session]
    storage: BaseStorage
    hints: list[UUID] = field(default_factory=list)

    def submit(self, **spec: object) -> UUID:
        body = HpoSpec.model_validate({"base": {"dataset": "d"}, "space": SPACE, "sampler": {"name": "random"}, **spec})
        with transaction(self.sessions) as session:
            return store.submit(
                session, kind=JobKind.HPO, spec=body.model_dump(mode="json"), spec_digest=body.digest(), queue="control",
                params={"trial_queue": "cpu"}, dataset="d", dataset_fingerprint="f00d",
            ).job.id  # fmt: skip

    def advance(self, study: UUID) -> News:
        return advance(self.sessions, self.storage, self.settings, study)

    def crash(self, study: UUID) -> None:
        """An advance that does all it has to do, and dies before its commit."""
        with pytest.raises(KeyboardInterrupt), transaction(self.sessions) as session:
            job = store.begin_study(session, study)
            assert job is not None
            Step(session, self.storage, job, HpoSpec.model_validate(job.spec), None).run()
            raise KeyboardInterrupt

    def job(self, job_id: UUID) -> Job:
        with transaction(self.sessions) as session:
            return store.get(session, job_id)

    def children(self, study: UUID, kind: JobKind = JobKind.TRIAL, *, alive: bool = False) -> list[Job]:
        query = select(Job).where(Job.parent_id == study, Job.kind == kind).order_by(Job.trial_number)
        with transaction(self.sessions) as session:
            return [job for job in session.scalars(query) if not alive or job.state not in TERMINAL]

    def claim(self, job: Job) -> bool:
        with transaction(self.sessions) as session:
            return store.claim(session, job.id, worker="w", host="h", device="cpu", lease_seconds=60) is not None

    def say(self, job: Job, epoch: int, value: float | None, *, best: bool = True) -> None:
        with transaction(self.sessions) as session:
            history.append(
                session, job.id, 1, [Metrics(child_seq=epoch, step=epoch, values={METRIC: value}, best=best)]
            )

    def settle(self, job: Job, to: JobState, reason: Reason | None = None) -> None:
        with transaction(self.sessions) as session:
            store.settle(session, job.id, 1, to, reason=reason, message="it said so" if reason else None)

    def run(self, job: Job, objective: Objective = climbing) -> None:
        """What a worker does with one job."""
        if not self.claim(job):
            return
        if job.kind is JobKind.PREFLIGHT:
            self.settle(job, JobState.SUCCEEDED)
            return
        outcome = objective(job.params or {}, job.trial_number or 0)
        if isinstance(outcome, Reason):
            self.settle(job, JobState.FAILED, outcome)
            return
        for epoch, value in enumerate(outcome, start=1):
            self.say(job, epoch, value, best=value is not None)
        self.settle(job, JobState.SUCCEEDED)

    def preflight(self, study: UUID) -> None:
        self.advance(study)
        for job in self.children(study, JobKind.PREFLIGHT, alive=True):
            self.run(job)

    def work(self, study: UUID, objective: Objective = climbing) -> Job:
        """One worker and one control process until the study is over."""
        for _ in range(500):
            self.advance(study)
            if self.job(study).state in TERMINAL:
                return self.job(study)
            for kind in (JobKind.PREFLIGHT, JobKind.TRIAL):
                for job in self.children(study, kind, alive=True)[:1]:
                    self.run(job, objective)
        raise AssertionError("the study does not end")

    def optuna(self, study: UUID) -> list[optuna.trial.FrozenTrial]:
        """As Optuna's own tools see it, with a storage of their own."""
        storage = optuna.storages.RDBStorage(self.settings.studies_database_url)
        trials = optuna.load_study(study_name=str(study), storage=storage).trials
        storage.remove_session()
        storage.engine.dispose()
        return trials

    def states(self, study: UUID) -> list[TrialState]:
        return [trial.state for trial in self.optuna(study)]


@pytest.fixture
def bench(settings: Settings, sessions: sessionmaker[Session]) -> Iterator[Bench]:
    storage = open_storage(settings)
    yield Bench(settings, sessions, storage)
    storage.remove_session()
    storage._backend.engine.dispose()  # type: ignore[attr-defined]


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
        files = {row.name: bench.settings.run_root / row.path for row in store.artifacts(session, study)}
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


def test_a_study_cancelled_after_such_a_crash_leaves_nothing_running(bench: Bench) -> None:
    study = bench.submit(n_trials=3)
    bench.preflight(study)
    bench.crash(study)
    with transaction(bench.sessions) as session:
        store.want(session, study, Wanted.CANCEL, by="test")
    bench.advance(study)
    assert bench.job(study).state is JobState.CANCELLED
    assert bench.states(study) == [TrialState.FAIL]


def test_pain_37_a_failed_trial_is_fail_with_its_reason_and_never_a_number(bench: Bench) -> None:
    study = bench.submit(n_trials=4, max_failed_trials=2)

    def sometimes(params: dict[str, Scalar], number: int) -> Outcome:
        return {1: Reason.NAN_LOSS, 2: [None, None]}.get(number) or climbing(params, number)  # type: ignore[return-value]

    assert bench.work(study, sometimes).state is JobState.SUCCEEDED
    frozen = bench.optuna(study)
    complete, fail = TrialState.COMPLETE, TrialState.FAIL
    assert [t.state for t in frozen] == [complete, fail, fail, complete]
    assert [frozen[n].values for n in (1, 2)] == [None, None]
    assert [frozen[n].user_attrs["reason"] for n in (1, 2)] == ["nan_loss", "objective_missing"]
    assert frozen[1].user_attrs["message"] == "it said so"


def test_pain_37_a_study_of_failures_only_is_failed(bench: Bench) -> None:
    study = bench.submit(n_trials=3, max_failed_trials=3)
    job = bench.work(study, lambda _params, _number: Reason.OOM_HOST)
    assert (job.state, job.reason, job.best) == (JobState.FAILED, Reason.OBJECTIVE_MISSING, None)
    assert bench.states(study) == [TrialState.FAIL] * 3


def test_too_many_failed_trials_end_the_study_and_stop_the_others(bench: Bench) -> None:
    study = bench.submit(n_trials=20, parallelism=3, max_failed_trials=1)
    bench.preflight(study)
    bench.advance(study)
    first, second, third = bench.children(study)
    assert bench.claim(third)
    for trial in (first, second):
        bench.run(trial, lambda _params, _number: Reason.NAN_LOSS)
    bench.advance(study)
    assert (bench.job(study).state, bench.job(third.id).wanted) == (JobState.RUNNING, Wanted.CANCEL)
    assert len(bench.children(study)) == 3
    bench.settle(third, JobState.CANCELLED, Reason.USER)
    bench.advance(study)
    job = bench.job(study)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.TOO_MANY_FAILED_TRIALS)
    assert job.message == "2 trials failed (nan_loss); max_failed_trials is 1"
    assert bench.job(third.id).reason is Reason.PARENT_STOPPED


def test_a_hopeless_trial_is_pruned_while_it_runs(bench: Bench) -> None:
    study = bench.submit(n_trials=3, pruner={"name": "median", "startup_trials": 1, "warmup_epochs": 1})
    bench.preflight(study)
    bench.advance(study)
    bench.run(bench.children(study)[0], lambda _params, _number: [0.5, 0.6, 0.7])
    bench.advance(study)
    bad = bench.children(study)[1]
    assert bench.claim(bad)
    for epoch, wanted in ((1, Wanted.RUN), (2, Wanted.PRUNE)):
        bench.say(bad, epoch, 0.01)
        news = bench.advance(study)
        assert bench.job(bad.id).wanted is wanted
    assert bad.id in news.changed
    bench.settle(bad, JobState.PRUNED, Reason.PRUNED)
    assert bench.work(study).state is JobState.SUCCEEDED
    frozen = bench.optuna(study)[1]
    assert (frozen.state, frozen.intermediate_values) == (TrialState.PRUNED, {1: 0.01, 2: 0.01})


def test_the_goal_ends_the_study(bench: Bench) -> None:
    study = bench.submit(n_trials=10, parallelism=2, goal=0.5)
    job = bench.work(study, lambda _params, number: [0.1 + 0.2 * number])
    assert (job.state, job.reason) == (JobState.SUCCEEDED, Reason.GOAL_REACHED)
    assert job.message == "val/rank_ic reached 0.5; the goal was 0.5"
    assert len(bench.children(study)) == 4  # the fourth had been started beside the third
    assert TrialState.RUNNING not in bench.states(study)


def test_a_loss_is_minimised(bench: Bench) -> None:
    study = bench.submit(n_trials=3, objective={"metric": "val/loss", "direction": "minimize"}, goal=0.2)
    bench.preflight(study)
    for value in (0.9, 0.15):
        bench.advance(study)
        [trial] = bench.children(study, alive=True)
        assert bench.claim(trial)
        with transaction(bench.sessions) as session:
            history.append(session, trial.id, 1, [Metrics(child_seq=1, step=1, values={"val/loss": value}, best=True)])
        bench.settle(trial, JobState.SUCCEEDED)
    bench.advance(study)
    job = bench.job(study)
    assert (job.reason, (job.best or {})["trial"]) == (Reason.GOAL_REACHED, 1)


@pytest.mark.parametrize("done", [0, 1])
def test_a_study_whose_time_is_over_says_so(bench: Bench, done: int) -> None:
    study = bench.submit(n_trials=2, parallelism=2, timeout_seconds=3600)
    bench.preflight(study)
    bench.advance(study)
    trials = bench.children(study)
    for trial in trials[:done]:
        bench.run(trial)
    assert bench.claim(trials[1])
    with transaction(bench.sessions) as session:
        past = func.now() - text("interval '2 hours'")
        session.execute(update(Job).where(Job.id == study).values(started_at=past))
    bench.advance(study)
    bench.settle(trials[1], JobState.CANCELLED, Reason.USER)
    bench.advance(study)
    job = bench.job(study)
    assert (job.state, job.reason) == (JobState.SUCCEEDED if done else JobState.FAILED, Reason.TIMEOUT_EXEC)
    assert TrialState.RUNNING not in bench.states(study)


def test_cancel_of_a_study_cancels_its_trials(bench: Bench) -> None:
    study = bench.submit(n_trials=5, parallelism=2)
    bench.preflight(study)
    bench.advance(study)
    running, queued = bench.children(study)
    assert bench.claim(running)
    with transaction(bench.sessions) as session:
        assert store.want(session, study, Wanted.CANCEL, by="test").state is JobState.RUNNING
    news = bench.advance(study)
    assert {running.id, queued.id} <= set(news.changed)
    assert (bench.job(queued.id).state, bench.job(queued.id).reason) == (JobState.CANCELLED, Reason.PARENT_STOPPED)
    assert (bench.job(running.id).wanted, bench.job(study).state) == (Wanted.CANCEL, JobState.RUNNING)
    bench.settle(running, JobState.CANCELLED, Reason.USER)
    bench.advance(study)
    job = bench.job(study)
    assert (job.state, job.reason) == (JobState.CANCELLED, Reason.USER)
    assert bench.job(running.id).reason is Reason.PARENT_STOPPED
    assert bench.states(study) == [TrialState.FAIL] * 2


def test_a_queued_study_is_cancelled_at_once(bench: Bench) -> None:
    study = bench.submit()
    with transaction(bench.sessions) as session:
        assert store.want(session, study, Wanted.CANCEL, by="test").state is JobState.CANCELLED
    assert bench.advance(study) == News()


def test_pain_38_a_space_whose_extreme_cannot_run_fails_before_any_trial(bench: Bench) -> None:
    study = bench.submit(n_trials=5, parallelism=4)
    bench.advance(study)
    low, high = sorted(bench.children(study, JobKind.PREFLIGHT), key=lambda job: str(job.tags), reverse=True)
    assert (low.params, high.params) == (
        {"optimizer.lr": 1e-5, "model.gat_layers": 1},
        {"optimizer.lr": 1e-3, "model.gat_layers": 4},
    )
    assert high.spec["model"]["gat_layers"] == 4
    bench.run(low)
    bench.advance(study)
    assert bench.children(study) == []
    assert bench.claim(high)
    bench.settle(high, JobState.FAILED, Reason.INTERNAL)
    bench.advance(study)
    job = bench.job(study)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.PREFLIGHT_FAILED)
    assert '"model.gat_layers": 4' in (job.message or "")
    assert "it said so" in (job.message or "")
    assert bench.children(study) == []


def test_pain_38_both_extremes_must_have_run_before_the_first_trial(bench: Bench) -> None:
    study = bench.submit(n_trials=2)
    for _ in range(3):
        bench.advance(study)
    low, high = bench.children(study, JobKind.PREFLIGHT)
    bench.run(low)
    bench.advance(study)
    assert bench.children(study) == []
    bench.run(high)
    bench.advance(study)
    assert len(bench.children(study)) == 1


def test_parameters_that_make_no_job_are_a_failed_trial(bench: Bench) -> None:
    space = {
        "model.hidden_size": {"kind": "categorical", "choices": [16, 20, 32]},
        "optimizer.lr": SPACE["optimizer.lr"],
    }
    base = {"dataset": "d", "model": {"hidden_size": 16, "gat_heads": 2, "attention_heads": 4}}
    heads = space | {"model.attention_heads": {"kind": "categorical", "choices": [4, 8]}}
    points = [{"model.hidden_size": 32}, {"model.hidden_size": 20, "model.attention_heads": 8}]
    study = bench.submit(base=base, space=heads, n_trials=2, enqueue=points)
    job = bench.work(study, lambda _params, _number: [0.1])
    assert job.state is JobState.SUCCEEDED
    bad = bench.children(study)[1]
    assert (bad.state, bad.reason, bad.attempt) == (JobState.FAILED, Reason.INVALID_PARAMS, 0)
    assert "hidden_size 20 must be a multiple of attention_heads 8" in (bad.message or "")
    assert bad.spec["model"]["hidden_size"] == 20
    assert bench.optuna(study)[1].user_attrs["reason"] == "invalid_params"


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


def test_a_late_report_of_a_failed_trial_does_no_harm(bench: Bench) -> None:
    study = bench.submit(n_trials=2, max_failed_trials=5)
    bench.preflight(study)
    bench.advance(study)
    [trial] = bench.children(study)
    assert bench.claim(trial)
    bench.say(trial, 1, 0.3)
    bench.settle(trial, JobState.FAILED, Reason.STALLED)
    bench.advance(study)
    with transaction(bench.sessions) as session:  # a point that a lost attempt had on its way
        session.execute(
            text("INSERT INTO metrics (job_id, name, step, attempt, value) VALUES (:id, 'val/rank_ic', 2, 1, 0.9)"),
            {"id": trial.id},
        )
    bench.advance(study)
    assert bench.work(study).state is JobState.SUCCEEDED
    assert bench.states(study) == [TrialState.FAIL, TrialState.COMPLETE]
    assert bench.optuna(study)[0].intermediate_values == {1: 0.3}


def test_pain_40_a_trial_that_is_tried_again_is_one_trial(bench: Bench) -> None:
    study = bench.submit(n_trials=2)
    bench.preflight(study)
    bench.advance(study)
    [trial] = bench.children(study)
    assert bench.claim(trial)
    bench.say(trial, 1, 0.3)
    with transaction(bench.sessions) as session:
        store.requeue(session, trial.id, 1, reason=Reason.WORKER_LOST, message="lost", counts_as_failure=True)
    bench.advance(study)
    assert bench.states(study) == [TrialState.RUNNING]
    with transaction(bench.sessions) as session:
        assert store.claim(session, trial.id, worker="w", host="h", device="cpu", lease_seconds=60)
        history.append(session, trial.id, 2, [Metrics(child_seq=1, step=1, values={METRIC: 0.3}, best=True)])
        store.settle(session, trial.id, 2, JobState.SUCCEEDED)
    bench.work(study)
    assert bench.states(study) == [TrialState.COMPLETE] * 2


def test_a_study_is_never_claimed_nor_does_it_expire(bench: Bench) -> None:
    study = bench.submit()
    assert not bench.claim(bench.job(study))
    bench.advance(study)
    with transaction(bench.sessions) as session:
        assert store.expired(session, 10) == []
        assert session.get_one(Attempt, (study, 1)).worker == "control"
        assert [job.id for job in store.active_studies(session, 10)] == [study]
        assert [job.kind for job in store.waiting(session, "cpu", -1, 10)] == [JobKind.PREFLIGHT] * 2


def test_the_sweep_asks_active_studies_again_and_again(bench: Bench) -> None:
    study, over = bench.submit(), bench.submit()
    with transaction(bench.sessions) as session:
        store.want(session, over, Wanted.CANCEL, by="test")
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
        changed = store.set_priority(session, study, 1, by="test")
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
