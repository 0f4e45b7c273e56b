"""What may be done with a job, by its kind and state."""

from uuid import UUID

import pytest

from atft.spec.kinds import KINDS, JobKind
from jobs.db.tables import Job
from jobs.record.actions import Action, actions, refusal
from jobs.states import JobState, Reason, Wanted

CONTROL = {Action.CANCEL, Action.PAUSE, Action.PRIORITY}


def job(kind: JobKind, state: JobState = JobState.RUNNING, **values: object) -> Job:
    return Job(**({"id": UUID(int=7), "kind": kind, "state": state, "wanted": Wanted.RUN} | values))


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (job(JobKind.TRAIN), CONTROL | {Action.PROMOTE, Action.COMPARE}),
        (
            job(JobKind.TRAIN, wanted=Wanted.PAUSE),
            CONTROL - {Action.PAUSE} | {Action.RESUME, Action.PROMOTE, Action.COMPARE},
        ),
        (job(JobKind.TRAIN, wanted=Wanted.CANCEL), {Action.PRIORITY, Action.PROMOTE, Action.COMPARE}),
        (job(JobKind.PRETRAIN, JobState.PAUSED, wanted=Wanted.PAUSE), CONTROL - {Action.PAUSE} | {Action.RESUME}),
        (
            job(JobKind.TRAIN, JobState.SUCCEEDED),
            {Action.RERUN, Action.PROMOTE, Action.PREDICT, Action.INIT_FROM, Action.COMPARE},
        ),
        (job(JobKind.TRIAL, JobState.SUCCEEDED), {Action.PROMOTE, Action.PREDICT, Action.COMPARE}),
        (job(JobKind.PRETRAIN, JobState.SUCCEEDED), {Action.RERUN, Action.INIT_FROM}),
        (job(JobKind.ENSEMBLE, JobState.CANCELLED, wanted=Wanted.CANCEL), {Action.RETRY, Action.COMPARE}),
        (
            job(JobKind.ENSEMBLE, JobState.SUCCEEDED),
            {Action.RERUN, Action.PREDICT, Action.INIT_FROM, Action.COMPARE},
        ),
        (job(JobKind.TRAIN, JobState.FAILED, reason=Reason.TIMEOUT_EXEC), {Action.PROMOTE, Action.COMPARE}),
        (job(JobKind.HPO), {Action.CANCEL, Action.PRIORITY}),
        (job(JobKind.HPO, JobState.SUCCEEDED, best={"value": 0.1}), {Action.PROMOTE}),
        (job(JobKind.BASELINES, JobState.CANCELLED), {Action.RETRY}),
        (job(JobKind.BASELINES, JobState.SUCCEEDED), {Action.RERUN}),
        (job(JobKind.PREDICT, JobState.FAILED), {Action.RETRY}),
        (job(JobKind.PREDICT, JobState.SUCCEEDED), set()),
        (job(JobKind.DATASET, JobState.SUCCEEDED, params={"files": {"panel": "data:a.csv"}}), {Action.RERUN}),
        (job(JobKind.DATASET, JobState.SUCCEEDED, params={"files": {"panel": "upload:a/b.csv"}}), set()),
    ],
    ids=lambda one: f"{one.kind}-{one.state}-{one.wanted}" if isinstance(one, Job) else "",
)  # fmt: skip
def test_actions_of_a_job(one: Job, expected: set[Action]) -> None:
    assert set(actions(one)) == expected


def test_a_refusal_names_the_kinds_that_would_do() -> None:
    assert refusal(job(JobKind.PRETRAIN), Action.PREDICT) == (
        f"job {UUID(int=7)} is of kind pretrain: give a training job, trial or ensemble"
    )
    assert refusal(job(JobKind.PREDICT), Action.COMPARE) == (
        f"{UUID(int=7)} is of kind predict: training jobs, trials and ensembles are compared"
    )
    assert refusal(job(JobKind.TRIAL), Action.INIT_FROM) == (
        f"job {UUID(int=7)} is of kind trial: begin with a training job, ensemble or pretraining"
    )


def test_every_kind_has_a_row() -> None:
    assert set(KINDS) == set(JobKind)
    unsubmitted = {name for name, kind in KINDS.items() if kind.command and not (kind.path or kind.of_study)}
    assert unsubmitted == {JobKind.BASELINES}
    assert {name for name, kind in KINDS.items() if kind.nested} == {
        JobKind.HPO, JobKind.ENSEMBLE, JobKind.PREFLIGHT,
    }  # fmt: skip
