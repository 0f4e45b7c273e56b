"""A study's row and those of its jobs: its values, and when and how it ends. Only rows decide that, so that no error of
a sampler, a pruner or Optuna's storage can keep a study from ending.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session, load_only

from atft.spec.study import HpoSpec
from jobs.db.tables import Job
from jobs.errors import IllegalTransition
from jobs.record import lifecycle
from jobs.states import TERMINAL, JobState, Reason, Wanted

_CHILD_COLUMNS: Final = load_only(
    Job.id, Job.kind, Job.state, Job.reason, Job.message, Job.wanted, Job.trial_number, Job.params, Job.tags, Job.best,
    Job.queue, Job.priority, Job.attempt,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StudyEnd:
    """How a study ends."""

    state: JobState
    reason: Reason | None = None
    message: str | None = None

    def settle(self, session: Session, job: Job) -> None:
        """End the study."""
        end = lifecycle.AttemptEnd(reason=self.reason, message=self.message)
        lifecycle.settle(session, job.id, job.attempt, self.state, end)


class StudyRows:
    """A study and its jobs as they were when the transaction locked the study's row; `changed` are jobs with news."""

    def __init__(self, session: Session, job: Job, spec: HpoSpec) -> None:
        self.session, self.job, self.spec = session, job, spec
        self.changed: list[UUID] = [job.id]
        self.children = children_of(session, job)
        self.trials = {c.trial_number: c for c in self.children if c.trial_number is not None}
        self.sign = 1 if spec.objective.direction == "maximize" else -1
        self.timed_out = spec.timeout_seconds is not None and _running_seconds(session, job) > spec.timeout_seconds

    def values(self) -> dict[int, float]:
        """The objective by trial number, of the trials that have a value."""
        values = {number: objective_value(child) for number, child in self.trials.items()}
        return {number: value for number, value in values.items() if value is not None}

    def best_number(self, values: Mapping[int, float]) -> int:
        return max(sorted(values), key=lambda number: self.sign * values[number])

    def end(self) -> StudyEnd | None:  # noqa: PLR0911 - a table
        """How the study ends if no trial is to be started any more, else null."""
        spec, metric = self.spec, self.spec.objective.metric
        if self.job.wanted is Wanted.CANCEL:
            return StudyEnd(JobState.CANCELLED, Reason.USER, "cancelled with all its trials")
        if self.job.reason is Reason.INTERNAL:  # an earlier advance has decided so, and waits for the trials to stop
            return StudyEnd(JobState.FAILED, Reason.INTERNAL, self.job.message)
        values = self.values()
        best = values[self.best_number(values)] if values else None
        if spec.goal is not None and best is not None and self.sign * best >= self.sign * spec.goal:
            message = f"{metric} reached {best:.6g}; the goal was {spec.goal:.6g}"
            return StudyEnd(JobState.SUCCEEDED, Reason.GOAL_REACHED, message)
        failed = [c for c in self.trials.values() if _is_failure(c)]
        if len(failed) > spec.max_failed_trials:
            reasons = ", ".join(sorted({reason_of(c) for c in failed}))
            message = f"{len(failed)} trials failed ({reasons}); max_failed_trials is {spec.max_failed_trials}"
            return StudyEnd(JobState.FAILED, Reason.TOO_MANY_FAILED_TRIALS, message)
        done = sum(c.state in TERMINAL for c in self.trials.values())
        stopped = any(c.reason is Reason.PARENT_STOPPED for c in self.trials.values())
        if self.timed_out and (done < spec.num_trials or stopped):
            message = f"timeout_seconds {spec.timeout_seconds:g} is over: {len(values)} trials have a value"
            return StudyEnd(JobState.SUCCEEDED if values else JobState.FAILED, Reason.TIMEOUT_EXEC, message)
        if done < spec.num_trials:
            return None
        if not values:
            message = f"none of {done} trials ended with a value of {metric}"
            return StudyEnd(JobState.FAILED, Reason.OBJECTIVE_MISSING, message)
        return StudyEnd(JobState.SUCCEEDED)

    def request(self, child: Job, wanted: Wanted) -> None:
        """Have a job of the study cancelled or pruned."""
        if request(self.session, child, wanted):
            self.changed.append(child.id)

    def stop_children(self) -> bool:
        """Cancel all unfinished jobs of the study; true once none is left."""
        self.changed += stop(self.session, self.children)
        return all(child.state in TERMINAL for child in self.children)


def children_of(session: Session, job: Job) -> list[Job]:
    """The jobs of a study, the oldest first."""
    query = select(Job).where(Job.parent_id == job.id).order_by(Job.created_at, Job.id).options(_CHILD_COLUMNS)
    return list(session.scalars(query))


def stop(session: Session, children: list[Job]) -> list[UUID]:
    """Cancel the unfinished ones of a study's jobs; returns those that have news."""
    unfinished = [c for c in children if c.state not in TERMINAL and c.wanted is not Wanted.CANCEL]
    return [child.id for child in unfinished if request(session, child, Wanted.CANCEL)]


def request(session: Session, child: Job, wanted: Wanted) -> bool:
    """Have a job of a study cancelled or pruned; false if it has just ended by itself: the next advance handles it."""
    reason = Reason.PARENT_STOPPED if wanted is Wanted.CANCEL else Reason.PRUNED
    try:
        lifecycle.want(session, child.id, wanted, by="study", reason=reason)
    except IllegalTransition:
        return False
    return True


def _running_seconds(session: Session, job: Job) -> float:
    """The study's running time in seconds, by the database's clock."""
    now = session.scalars(select(func.clock_timestamp())).one()
    return (now - job.started_at).total_seconds() if job.started_at is not None else 0.0


def objective_value(child: Job) -> float | None:
    """The objective at the trial's best epoch; None unless it succeeded."""
    value = child.best.get("value") if child.best else None
    return float(value) if child.state is JobState.SUCCEEDED and isinstance(value, int | float) else None


def _is_failure(child: Job) -> bool:
    """True if it counts against max_failed_trials: it ended without a value, and not because the study ended."""
    if child.state in (JobState.FAILED, JobState.CANCELLED):
        return child.reason not in (Reason.PARENT_STOPPED, Reason.PRUNED)
    return child.state is JobState.SUCCEEDED and objective_value(child) is None


def is_pruned(child: Job) -> bool:
    """True also for a pruned trial that a draining worker had just requeued, and that was cancelled in the queue."""
    return child.state is JobState.PRUNED or (child.state is JobState.CANCELLED and child.reason is Reason.PRUNED)


def reason_of(child: Job) -> str:
    """Why a trial has no value, in a word."""
    if child.state is JobState.SUCCEEDED:
        return Reason.OBJECTIVE_MISSING.value
    return child.reason.value if child.reason is not None else child.state.value
