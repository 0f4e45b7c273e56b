"""A harness for the tests of studies: a study whose trials are run as a worker would, without a child process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from atft.events import Metrics
from atft.spec.study import HpoSpec, Scalar
from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.record import history, lifecycle, queries, submission
from jobs.settings import Settings
from jobs.states import TERMINAL, JobKind, JobState, Reason
from worker.studies.advance import AdvanceResult, AdvanceStep, advance
from worker.studies.samplers import open_storage

METRIC = "val/rank_ic"
SPACE = {
    "optimizer.lr": {"kind": "float", "low": 1e-5, "high": 1e-3, "log": True},
    "model.gat_layers": {"kind": "int", "low": 1, "high": 4},
}
TrialResult = list[float | None] | Reason
Objective = Callable[[dict[str, Scalar], int], TrialResult]


def improving_objective(params: dict[str, Scalar], number: int) -> TrialResult:
    """Values of two epochs, the second the best; they depend on the parameters only."""
    value = float(params["optimizer.lr"]) * 100 + float(params["model.gat_layers"]) / 100  # type: ignore[arg-type]
    return [value / 2, value]


@dataclass
class StudyHarness:
    settings: Settings
    sessions: sessionmaker[Session]
    storage: BaseStorage
    hints: list[UUID] = field(default_factory=list)

    def submit(self, **spec: object) -> UUID:
        body = HpoSpec.model_validate({"base": {"dataset": "d"}, "space": SPACE, "sampler": {"name": "random"}, **spec})
        with transaction(self.sessions) as session:
            return submission.submit(
                session,
                submission.NewJob(
                    kind=JobKind.HPO,
                    spec=body.model_dump(mode="json"),
                    spec_digest=body.digest(),
                    queue="control",
                    params={"trial_queue": "cpu"},
                    dataset="d",
                    dataset_fingerprint="f00d",
                ),
            ).job.id

    def advance(self, study: UUID) -> AdvanceResult:
        return advance(self.sessions, lambda: self.storage, self.settings, study)

    def crash_before_commit(self, study: UUID) -> None:
        """An advance that crashes just before its commit."""
        with self.sessions() as session:  # never committed
            job = lifecycle.begin_study(session, study)
            assert job is not None
            AdvanceStep(session, lambda: self.storage, self.settings, job, HpoSpec.model_validate(job.spec)).run()

    def job(self, job_id: UUID) -> Job:
        with transaction(self.sessions) as session:
            return queries.get(session, job_id)

    def children(self, study: UUID, kind: JobKind = JobKind.TRIAL, *, unfinished: bool = False) -> list[Job]:
        query = select(Job).where(Job.parent_id == study, Job.kind == kind).order_by(Job.trial_number)
        with transaction(self.sessions) as session:
            return [job for job in session.scalars(query) if not unfinished or job.state not in TERMINAL]

    def claim(self, job: Job) -> bool:
        with transaction(self.sessions) as session:
            return lifecycle.claim(session, job.id, worker="w", host="h", device="cpu", lease_seconds=60) is not None

    def report(self, job: Job, epoch: int, value: float | None, *, best: bool = True) -> None:
        with transaction(self.sessions) as session:
            history.append(
                session, job.id, 1, [Metrics(child_seq=epoch, step=epoch, values={METRIC: value}, best=best)]
            )

    def settle(self, job: Job, to: JobState, reason: Reason | None = None) -> None:
        with transaction(self.sessions) as session:
            lifecycle.settle(
                session,
                job.id,
                1,
                to,
                lifecycle.AttemptEnd(reason=reason, message="reported by the child" if reason else None),
            )

    def run(self, job: Job, objective: Objective = improving_objective) -> None:
        """Run one job as a worker would."""
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
            self.report(job, epoch, value, best=value is not None)
        self.settle(job, JobState.SUCCEEDED)

    def run_preflight(self, study: UUID) -> None:
        self.advance(study)
        for job in self.children(study, JobKind.PREFLIGHT, unfinished=True):
            self.run(job)

    def run_study(self, study: UUID, objective: Objective = improving_objective) -> Job:
        """Run the study with one worker and one control process until it ends."""
        for _ in range(500):
            self.advance(study)
            if self.job(study).state in TERMINAL:
                return self.job(study)
            for kind in (JobKind.PREFLIGHT, JobKind.TRIAL):
                for job in self.children(study, kind, unfinished=True)[:1]:
                    self.run(job, objective)
        raise AssertionError("the study does not end")

    def optuna(self, study: UUID) -> list[optuna.trial.FrozenTrial]:
        """The study as Optuna's own tools read it, through a storage of their own."""
        storage = optuna.storages.RDBStorage(self.settings.studies_database_url)
        trials = optuna.load_study(study_name=str(study), storage=storage).trials
        storage.remove_session()
        storage.engine.dispose()
        return trials

    def states(self, study: UUID) -> list[TrialState]:
        return [trial.state for trial in self.optuna(study)]


@contextmanager
def open_harness(settings: Settings, sessions: sessionmaker[Session]) -> Iterator[StudyHarness]:
    """A harness whose connections are closed afterwards."""
    storage = open_storage(settings)
    yield StudyHarness(settings, sessions, storage)
    storage.remove_session()
    storage._backend.engine.dispose()  # type: ignore[attr-defined]
