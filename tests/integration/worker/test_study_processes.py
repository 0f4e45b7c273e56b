"""A study with nothing simulated: real worker and control processes, a real broker, real training."""

import os
import signal

import optuna
import psutil
from optuna.trial import TrialState
from sqlalchemy import select

from atft.spec.study import HpoSpec
from jobs.broker.queue import CONTROL, HintSender
from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.record import submission
from jobs.states import TERMINAL, JobKind, JobState, Reason
from tests.integration.worker.test_processes import TRAIN, Service, cache, service  # noqa: F401 - fixtures
from worker.studies.samplers import non_adaptive_point

BASE = TRAIN.model_copy(update={"trainer": TRAIN.trainer.model_copy(update={"max_epochs": 3})})
SPACE = {
    "optimizer.lr": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "model.gat_layers": {"kind": "int", "low": 1, "high": 3},
}


def submit(service: Service, **changes: object) -> Job:  # noqa: F811
    body = {"base": BASE.model_dump(mode="json"), "space": SPACE, "sampler": {"name": "random"}, **changes}
    spec = HpoSpec.model_validate(body)
    with transaction(service.sessions) as session:
        job = submission.submit(
            session,
            submission.NewJob(
                kind=JobKind.HPO,
                spec=spec.model_dump(mode="json"),
                spec_digest=spec.digest(),
                queue=CONTROL,
                params={"trial_queue": "cpu"},
                dataset="d",
                dataset_fingerprint=service.fingerprint,
            ),
        ).job
    sender = HintSender(service.settings)
    assert sender.send(CONTROL, job.id, 5)
    sender.close()
    return job


def children(service: Service, study: Job, kind: JobKind = JobKind.TRIAL) -> list[Job]:  # noqa: F811
    with transaction(service.sessions) as session:
        query = select(Job).where(Job.parent_id == study.id, Job.kind == kind).order_by(Job.trial_number)
        return list(session.scalars(query))


def test_pain_37_a_killed_worker_costs_a_study_no_trial(service: Service) -> None:  # noqa: F811
    service.worker("--control")
    workers = [service.worker("--device", str(index)) for index in range(2)]
    long = BASE.model_copy(update={"trainer": BASE.trainer.model_copy(update={"max_epochs": 12})})  # seen while it runs
    study = submit(
        service,
        base=long.model_dump(mode="json"),
        n_trials=4,
        parallelism=2,
        pruner={"name": "median", "startup_trials": 2},
    )

    def training() -> list[Job]:
        return [trial for trial in children(service, study) if trial.state is JobState.RUNNING and trial.metrics]

    service.wait_until(training, 180)
    family = psutil.Process(workers[0].pid).children(recursive=True)
    os.kill(workers[0].pid, signal.SIGKILL)
    psutil.wait_procs(family, timeout=10)
    service.wait_until(lambda: over(service, study), 240)
    done = service.job(study.id)
    assert (done.state, done.message) == (JobState.SUCCEEDED, None)
    trials = children(service, study)
    assert [trial.trial_number for trial in trials] == list(range(4))
    assert {trial.state for trial in trials} <= {JobState.SUCCEEDED, JobState.PRUNED}
    spec = HpoSpec.model_validate(done.spec)
    for trial in trials:
        assert trial.params == non_adaptive_point(spec, trial.trial_number or 0)
        if trial.state is JobState.SUCCEEDED:
            assert trial.evidence is not None
            assert trial.evidence["requested"] == trial.spec
            assert trial.evidence["requested"]["model"]["gat_layers"] == (trial.params or {})["model.gat_layers"]
            assert not [name for name in trial.metrics if name.startswith("test/")]
    storage = optuna.storages.RDBStorage(service.settings.studies_database_url)
    loaded = optuna.load_study(study_name=str(study.id), storage=storage)
    states = [trial.state for trial in loaded.trials]
    best = loaded.best_trial
    storage.remove_session()
    storage.engine.dispose()
    assert len(states) == 4
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert done.best is not None
    assert (best.number, best.value) == (done.best["trial"], done.best["value"])


def over(service: Service, study: Job) -> bool:  # noqa: F811
    return service.job(study.id).state in TERMINAL


def test_pain_38_a_space_with_an_extreme_that_cannot_run(service: Service) -> None:  # noqa: F811
    service.worker("--control")
    service.worker()
    study = submit(service, space={"loss.base_weight": {"kind": "float", "low": 1.0, "high": 1e39}})
    service.wait_until(lambda: over(service, study), 120)
    done = service.job(study.id)
    assert (done.state, done.reason) == (JobState.FAILED, Reason.PREFLIGHT_FAILED)
    assert (done.message or "").startswith('the high extreme of the space, {"loss.base_weight": 1e+39}, cannot run: ')
    assert "inf before the first step" in (done.message or "")
    assert [child.kind for child in children(service, study, JobKind.PREFLIGHT)] == [JobKind.PREFLIGHT]
    assert children(service, study) == []
