"""How studies and their trials end: values, failures, pruning, goals, time, cancels, spaces that cannot run."""

from collections.abc import Iterator

import pytest
from optuna.trial import TrialState
from sqlalchemy import func, text, update
from sqlalchemy.orm import Session, sessionmaker

from atft.events import Metrics
from atft.spec.study import Scalar
from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.record import catalog, history, lifecycle
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason, Wanted
from tests.integration.worker.study_harness import (
    METRIC,
    SPACE,
    StudyHarness,
    TrialResult,
    improving_objective,
    open_harness,
)
from worker.studies.advance import AdvanceResult


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> Iterator[StudyHarness]:
    with open_harness(settings, sessions) as harness:
        yield harness


def test_a_study_cancelled_after_a_crash_between_ask_and_commit_leaves_no_trial_running(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=3)
    harness.run_preflight(study)
    harness.crash_before_commit(study)
    with transaction(harness.sessions) as session:
        lifecycle.want(session, study, Wanted.CANCEL, by="test")
    harness.advance(study)
    assert harness.job(study).state is JobState.CANCELLED
    assert harness.states(study) == [TrialState.FAIL]


def test_pain_37_a_failed_trial_is_fail_with_its_reason_and_never_a_number(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=4, max_failed_trials=2)

    def fail_some(params: dict[str, Scalar], number: int) -> TrialResult:
        return {1: Reason.NAN_LOSS, 2: [None, None]}.get(number) or improving_objective(params, number)  # type: ignore[return-value]

    assert harness.run_study(study, fail_some).state is JobState.SUCCEEDED
    frozen = harness.optuna(study)
    complete, fail = TrialState.COMPLETE, TrialState.FAIL
    assert [t.state for t in frozen] == [complete, fail, fail, complete]
    assert [frozen[n].values for n in (1, 2)] == [None, None]
    assert [frozen[n].user_attrs["reason"] for n in (1, 2)] == ["nan_loss", "objective_missing"]
    assert frozen[1].user_attrs["message"] == "reported by the child"


def test_pain_37_a_study_of_failures_only_is_failed(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=3, max_failed_trials=3)
    job = harness.run_study(study, lambda _params, _number: Reason.OOM_HOST)
    assert (job.state, job.reason, job.best) == (JobState.FAILED, Reason.OBJECTIVE_MISSING, None)
    assert harness.states(study) == [TrialState.FAIL] * 3


def test_too_many_failed_trials_end_the_study_and_stop_the_others(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=20, parallelism=3, max_failed_trials=1)
    harness.run_preflight(study)
    harness.advance(study)
    first, second, third = harness.children(study)
    assert harness.claim(third)
    for trial in (first, second):
        harness.run(trial, lambda _params, _number: Reason.NAN_LOSS)
    harness.advance(study)
    assert (harness.job(study).state, harness.job(third.id).wanted) == (JobState.RUNNING, Wanted.CANCEL)
    assert len(harness.children(study)) == 3
    harness.settle(third, JobState.CANCELLED, Reason.USER)
    harness.advance(study)
    job = harness.job(study)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.TOO_MANY_FAILED_TRIALS)
    assert job.message == "2 trials failed (nan_loss); max_failed_trials is 1"
    assert harness.job(third.id).reason is Reason.PARENT_STOPPED


def test_a_hopeless_trial_is_pruned_while_it_runs(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=3, pruner={"name": "median", "startup_trials": 1, "warmup_epochs": 1})
    harness.run_preflight(study)
    harness.advance(study)
    harness.run(harness.children(study)[0], lambda _params, _number: [0.5, 0.6, 0.7])
    harness.advance(study)
    bad = harness.children(study)[1]
    assert harness.claim(bad)
    for epoch, wanted in ((1, Wanted.RUN), (2, Wanted.PRUNE)):
        harness.report(bad, epoch, 0.01)
        news = harness.advance(study)
        assert harness.job(bad.id).wanted is wanted
    assert bad.id in news.changed
    harness.settle(bad, JobState.PRUNED, Reason.PRUNED)
    assert harness.run_study(study).state is JobState.SUCCEEDED
    frozen = harness.optuna(study)[1]
    assert (frozen.state, frozen.intermediate_values) == (TrialState.PRUNED, {1: 0.01, 2: 0.01})


def test_a_prune_during_a_drain_is_no_failure(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=2, max_failed_trials=0)
    harness.run_preflight(study)
    harness.advance(study)
    [trial] = harness.children(study)
    assert harness.claim(trial)
    harness.report(trial, 1, 0.01)
    with transaction(harness.sessions) as session:
        lifecycle.requeue(
            session,
            trial.id,
            1,
            lifecycle.AttemptEnd(reason=Reason.DRAINED, message="drained"),
            counts_as_failure=False,
        )
    with transaction(harness.sessions) as session:
        lifecycle.want(session, trial.id, Wanted.PRUNE, by="study", reason=Reason.PRUNED)
    assert harness.job(trial.id).state is JobState.CANCELLED
    assert harness.run_study(study).state is JobState.SUCCEEDED
    assert harness.states(study) == [TrialState.PRUNED, TrialState.COMPLETE]
    with transaction(harness.sessions) as session:
        messages = [e.body["message"] for e in history.read_after(session, study, 0) if e.kind == "log"]
    assert messages[0] == "trial 0 pruned: after epoch 1"


def test_a_trial_of_several_folds_is_not_pruned_by_its_final_value(harness: StudyHarness) -> None:
    base = {"dataset": "d", "split": {"folds": 3}}
    study = harness.submit(base=base, n_trials=3, pruner={"name": "median", "startup_trials": 1, "warmup_epochs": 1})
    harness.run_preflight(study)
    harness.advance(study)
    harness.run(harness.children(study)[0], lambda _params, _number: [0.5, 0.6, 0.7])
    harness.advance(study)
    bad = harness.children(study)[1]
    assert harness.claim(bad)
    harness.report(bad, 2, 0.01)
    harness.advance(study)
    assert harness.job(bad.id).wanted is Wanted.RUN
    harness.settle(bad, JobState.SUCCEEDED)
    harness.advance(study)
    assert harness.optuna(study)[1].value == 0.01


def test_a_study_ends_although_its_plots_cannot_be_written(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=2)
    harness.settings.jobs_root.mkdir(parents=True, exist_ok=True)
    (harness.settings.jobs_root / str(study)).write_text("no folder can be made here")
    assert harness.run_study(study).state is JobState.SUCCEEDED
    with transaction(harness.sessions) as session:
        assert catalog.artifacts(session, study) == []
        messages = [e.body for e in history.read_after(session, study, 0) if e.kind == "log"]
    assert messages[-1]["level"] == "warning"
    assert messages[-1]["message"].startswith("the parameter importance cannot be written: ")
    assert harness.advance(study) == AdvanceResult()


def test_reaching_the_goal_ends_the_study(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=10, parallelism=2, goal=0.5)
    job = harness.run_study(study, lambda _params, number: [0.1 + 0.2 * number])
    assert (job.state, job.reason) == (JobState.SUCCEEDED, Reason.GOAL_REACHED)
    assert job.message == "val/rank_ic reached 0.5; the goal was 0.5"
    assert len(harness.children(study)) == 4  # the fourth had been started beside the third
    assert TrialState.RUNNING not in harness.states(study)


def test_a_loss_is_minimised(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=3, objective={"metric": "val/loss", "direction": "minimize"}, goal=0.2)
    harness.run_preflight(study)
    for value in (0.9, 0.15):
        harness.advance(study)
        [trial] = harness.children(study, unfinished=True)
        assert harness.claim(trial)
        with transaction(harness.sessions) as session:
            history.append(session, trial.id, 1, [Metrics(child_seq=1, step=1, values={"val/loss": value}, best=True)])
        harness.settle(trial, JobState.SUCCEEDED)
    harness.advance(study)
    job = harness.job(study)
    assert (job.reason, (job.best or {})["trial"]) == (Reason.GOAL_REACHED, 1)


@pytest.mark.parametrize("done", [0, 1])
def test_a_study_that_timed_out_reports_it(harness: StudyHarness, done: int) -> None:
    study = harness.submit(n_trials=2, parallelism=2, timeout_seconds=3600)
    harness.run_preflight(study)
    harness.advance(study)
    trials = harness.children(study)
    for trial in trials[:done]:
        harness.run(trial)
    assert harness.claim(trials[1])
    with transaction(harness.sessions) as session:
        past = func.now() - text("interval '2 hours'")
        session.execute(update(Job).where(Job.id == study).values(started_at=past))
    harness.advance(study)
    harness.settle(trials[1], JobState.CANCELLED, Reason.USER)
    harness.advance(study)
    job = harness.job(study)
    assert (job.state, job.reason) == (JobState.SUCCEEDED if done else JobState.FAILED, Reason.TIMEOUT_EXEC)
    assert TrialState.RUNNING not in harness.states(study)


def test_cancel_of_a_study_cancels_its_trials(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=5, parallelism=2)
    harness.run_preflight(study)
    harness.advance(study)
    running, queued = harness.children(study)
    assert harness.claim(running)
    with transaction(harness.sessions) as session:
        assert lifecycle.want(session, study, Wanted.CANCEL, by="test").state is JobState.RUNNING
    news = harness.advance(study)
    assert {running.id, queued.id} <= set(news.changed)
    assert (harness.job(queued.id).state, harness.job(queued.id).reason) == (JobState.CANCELLED, Reason.PARENT_STOPPED)
    assert (harness.job(running.id).wanted, harness.job(study).state) == (Wanted.CANCEL, JobState.RUNNING)
    harness.settle(running, JobState.CANCELLED, Reason.USER)
    harness.advance(study)
    job = harness.job(study)
    assert (job.state, job.reason) == (JobState.CANCELLED, Reason.USER)
    assert harness.job(running.id).reason is Reason.PARENT_STOPPED
    assert harness.states(study) == [TrialState.FAIL] * 2


def test_a_queued_study_is_cancelled_at_once(harness: StudyHarness) -> None:
    study = harness.submit()
    with transaction(harness.sessions) as session:
        assert lifecycle.want(session, study, Wanted.CANCEL, by="test").state is JobState.CANCELLED
    assert harness.advance(study) == AdvanceResult()


def test_pain_38_a_space_whose_extreme_cannot_run_fails_before_any_trial(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=5, parallelism=4)
    for _ in range(3):
        harness.advance(study)
    [preflight] = harness.children(study, JobKind.PREFLIGHT)
    assert preflight.spec["points"] == {
        "low": {"optimizer.lr": 1e-5, "model.gat_layers": 1},
        "high": {"optimizer.lr": 1e-3, "model.gat_layers": 4},
    }
    assert harness.claim(preflight)
    harness.advance(study)
    assert harness.children(study) == []
    harness.settle(preflight, JobState.FAILED, Reason.INTERNAL)
    harness.advance(study)
    job = harness.job(study)
    assert (job.state, job.reason, job.message) == (
        JobState.FAILED,
        Reason.PREFLIGHT_FAILED,
        "reported by the child",
    )
    assert harness.children(study) == []


def test_parameters_that_make_no_job_are_a_failed_trial(harness: StudyHarness) -> None:
    space = {
        "model.hidden_size": {"kind": "categorical", "choices": [16, 20, 32]},
        "optimizer.lr": SPACE["optimizer.lr"],
    }
    base = {"dataset": "d", "model": {"hidden_size": 16, "gat_heads": 2, "attention_heads": 4}}
    heads = space | {"model.attention_heads": {"kind": "categorical", "choices": [4, 8]}}
    points = [{"model.hidden_size": 32}, {"model.hidden_size": 20, "model.attention_heads": 8}]
    study = harness.submit(base=base, space=heads, n_trials=2, enqueue=points)
    job = harness.run_study(study, lambda _params, _number: [0.1])
    assert job.state is JobState.SUCCEEDED
    bad = harness.children(study)[1]
    assert (bad.state, bad.reason, bad.attempt) == (JobState.FAILED, Reason.INVALID_PARAMS, 0)
    assert "hidden_size 20 must be a multiple of attention_heads 8" in (bad.message or "")
    assert bad.spec["model"]["hidden_size"] == 20
    assert harness.optuna(study)[1].user_attrs["reason"] == "invalid_params"


def test_a_refused_trial_whose_advance_was_rolled_back_is_refused_again(harness: StudyHarness) -> None:
    space = {
        "model.hidden_size": {"kind": "categorical", "choices": [16, 20, 32]},
        "model.attention_heads": {"kind": "categorical", "choices": [4, 8]},
    }
    base = {"dataset": "d", "model": {"hidden_size": 16, "gat_heads": 2, "attention_heads": 4}}
    points = [{"model.hidden_size": size, "model.attention_heads": 8} for size in (20, 32)]
    study = harness.submit(base=base, space=space, n_trials=2, enqueue=points)
    harness.run_preflight(study)
    harness.crash_before_commit(study)
    assert harness.states(study)[0] is TrialState.FAIL
    assert harness.children(study) == []
    assert harness.run_study(study, lambda _params, _number: [0.1]).state is JobState.SUCCEEDED
    assert [trial.reason for trial in harness.children(study)] == [Reason.INVALID_PARAMS, None]
    assert harness.states(study) == [TrialState.FAIL, TrialState.COMPLETE]
    assert harness.optuna(study)[0].user_attrs["reason"] == "invalid_params"


def test_a_late_report_of_a_failed_trial_is_ignored(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=2, max_failed_trials=5)
    harness.run_preflight(study)
    harness.advance(study)
    [trial] = harness.children(study)
    assert harness.claim(trial)
    harness.report(trial, 1, 0.3)
    harness.settle(trial, JobState.FAILED, Reason.STALLED)
    harness.advance(study)
    with transaction(harness.sessions) as session:  # an event that a lost attempt had still to send
        session.execute(
            text("INSERT INTO metrics (job_id, name, step, attempt, value) VALUES (:id, 'val/rank_ic', 2, 1, 0.9)"),
            {"id": trial.id},
        )
    harness.advance(study)
    assert harness.run_study(study).state is JobState.SUCCEEDED
    assert harness.states(study) == [TrialState.FAIL, TrialState.COMPLETE]
    assert harness.optuna(study)[0].intermediate_values == {1: 0.3}


def test_pain_40_a_retried_trial_is_one_trial(harness: StudyHarness) -> None:
    study = harness.submit(n_trials=2)
    harness.run_preflight(study)
    harness.advance(study)
    [trial] = harness.children(study)
    assert harness.claim(trial)
    harness.report(trial, 1, 0.3)
    with transaction(harness.sessions) as session:
        lifecycle.requeue(
            session,
            trial.id,
            1,
            lifecycle.AttemptEnd(reason=Reason.WORKER_LOST, message="lost"),
            counts_as_failure=True,
        )
    harness.advance(study)
    assert harness.states(study) == [TrialState.RUNNING]
    with transaction(harness.sessions) as session:
        assert lifecycle.claim(session, trial.id, worker="w", host="h", device="cpu", lease_seconds=60)
        history.append(session, trial.id, 2, [Metrics(child_seq=1, step=1, values={METRIC: 0.3}, best=True)])
        lifecycle.settle(session, trial.id, 2, JobState.SUCCEEDED)
    harness.run_study(study)
    assert harness.states(study) == [TrialState.COMPLETE] * 2
