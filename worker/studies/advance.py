"""Advancing a study: Optuna's ask, tell and prune, under a lock on the study's row.

An advance is short and idempotent and may run at any time in any process: it reads the trials' rows, reports them to
Optuna, prunes, ends the study or asks for new trials. A trial is a job. A failed one is told to Optuna as FAIL with its
reason, never as a number.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from uuid import UUID

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session, load_only, sessionmaker

from atft.spec.base import digest
from atft.spec.study import HpoSpec, Scalar
from jobs.db.columns import Best
from jobs.db.session import transaction
from jobs.db.tables import Job, Json
from jobs.errors import IllegalTransition
from jobs.record import catalog, history, lifecycle, submission
from jobs.settings import Settings
from jobs.states import TERMINAL, JobKind, JobState, Reason, Wanted
from worker.persistence import POSTGRES_UNAVAILABLE
from worker.studies.plots import Plots, draw_plots
from worker.studies.samplers import open_study, suggest_parameters

EXTREMES: Final[tuple[Literal["low", "high"], ...]] = ("low", "high")
logger = logging.getLogger(__name__)
_CHILD_COLUMNS = load_only(
    Job.id, Job.kind, Job.state, Job.reason, Job.message, Job.wanted, Job.trial_number, Job.params, Job.tags, Job.best,
    Job.queue, Job.priority, Job.attempt,
)  # fmt: skip


@dataclass
class AdvanceResult:
    """What to send after the commit: hints (queue, id, priority) and jobs whose followers to notify. `draw_plots`
    is set when only the plots of the ended study are missing.
    """

    hints: list[tuple[str, UUID, int]] = field(default_factory=list)
    changed: list[UUID] = field(default_factory=list)
    draw_plots: HpoSpec | None = None


def advance(sessions: sessionmaker[Session], storage: BaseStorage, settings: Settings, job_id: UUID) -> AdvanceResult:
    """Advance the study by one step. While Postgres is unavailable nothing happens; the sweeper sends another hint."""
    plots: Plots | None = None
    result = AdvanceResult()
    try:
        while True:
            with transaction(sessions) as session:
                job = lifecycle.begin_study(session, job_id)
                if job is None:
                    return result
                step = _step(session, storage, job, plots)
            result.hints += step.hints
            result.changed += step.changed
            if step.draw_plots is None:
                return result
            plots = draw_plots(settings, storage, job_id, step.draw_plots)  # seconds, so not under the lock
    except (*POSTGRES_UNAVAILABLE, optuna.exceptions.StorageInternalError) as error:
        logger.warning("study %s: Postgres is unavailable: %s", job_id, error)
        return result


def _step(session: Session, storage: BaseStorage, job: Job, plots: Plots | None) -> AdvanceResult:
    try:
        spec = HpoSpec.model_validate(job.spec)
    except ValidationError as error:
        message = f"the study's spec is not valid for this version: {error}"
        end = lifecycle.AttemptEnd(reason=Reason.INVALID_PARAMS, message=message)
        lifecycle.settle(session, job.id, job.attempt, JobState.FAILED, end)
        return AdvanceResult(changed=[job.id])
    step = AdvanceStep(session, storage, job, spec, plots)
    step.run()
    return step.result


class AdvanceStep:
    """One advance, inside one transaction that holds the lock on the study's row."""

    def __init__(self, session: Session, storage: BaseStorage, job: Job, spec: HpoSpec, plots: Plots | None) -> None:
        self.session, self.job, self.spec, self.plots = session, job, spec, plots
        self.result = AdvanceResult(changed=[job.id])
        children = select(Job).where(Job.parent_id == job.id).order_by(Job.created_at, Job.id).options(_CHILD_COLUMNS)
        self.children = list(session.scalars(children))
        self.trials = {c.trial_number: c for c in self.children if c.trial_number is not None}
        self.study = open_study(storage, job.id, spec)
        self.num_trials = spec.num_trials
        self.sign = 1 if spec.objective.direction == "maximize" else -1
        self.prunable = spec.base.split.num_splits == 1  # the mean over folds is known only once all are trained
        self.timed_out = spec.timeout_seconds is not None and _running_seconds(session, job) > spec.timeout_seconds

    def run(self) -> None:
        if self.job.wanted is Wanted.CANCEL:
            self._finish(JobState.CANCELLED, Reason.USER, "cancelled with all its trials")
            return
        if not self.timed_out and not self._preflight_passed():
            return
        self._adopt_orphaned_trials()
        self._tell_all()
        while not self._finish_if_over():
            unfinished = sum(c.state not in TERMINAL for c in self.trials.values())
            if unfinished >= self.spec.parallelism or len(self.trials) >= self.num_trials:
                self._write_progress("trials")
                return
            self._ask()

    # --- before the first trial

    def _preflight_passed(self) -> bool:
        """True once both extremes of the space have run one step; else it submits them, waits, or ends the study."""
        runs = {str(c.tags.get("preflight")): c for c in self.children if c.kind is JobKind.PREFLIGHT}
        for extreme in EXTREMES:
            if extreme not in runs and not self._submit_preflight(extreme):
                return False
        for which, child in runs.items():
            if child.state in TERMINAL and child.state is not JobState.SUCCEEDED:
                return self._refuse_space(which, child.point, child.message or _reason_of(child))
        if all(c.state is JobState.SUCCEEDED for c in runs.values()) and len(runs) == len(EXTREMES):
            return True
        self._write_progress("preflight")
        return False

    def _submit_preflight(self, extreme: Literal["low", "high"]) -> bool:
        params = self.spec.extreme(extreme)
        body = self.spec.trial_body(params)
        problem = _validation_message(self.spec, params)
        if problem is not None:
            return self._refuse_space(extreme, params, problem)
        self._submit(JobKind.PREFLIGHT, body, params, name=f"preflight, {extreme}", tags={"preflight": extreme})
        return True

    def _refuse_space(self, extreme: str, params: Mapping[str, Scalar], problem: str) -> bool:
        message = f"the {extreme} extreme of the space, {json.dumps(dict(params))}, cannot run: {problem}"
        self._finish(JobState.FAILED, Reason.PREFLIGHT_FAILED, message)
        return False

    # --- asking

    def _ask(self) -> None:
        enqueued = sum("enqueued" in trial.user_attrs for trial in self._optuna_trials())
        for number, point in enumerate(self.spec.enqueue[enqueued:], start=enqueued):
            self.study.enqueue_trial(dict(point), user_attrs={"enqueued": number})
        trial = self.study.ask()
        self._submit_trial(trial.number, suggest_parameters(self.study, trial, self.spec))

    def _adopt_orphaned_trials(self) -> None:
        """Submit the jobs of Optuna trials that a crash left without one."""
        for frozen in self._optuna_trials():
            if frozen.state is TrialState.WAITING or frozen.number in self.trials:
                continue
            if frozen.state is TrialState.RUNNING:
                trial = Trial(self.study, frozen._trial_id)
                self._submit_trial(frozen.number, suggest_parameters(self.study, trial, self.spec))
            else:
                self._submit_trial(frozen.number, frozen.params)

    def _submit_trial(self, number: int, params: Mapping[str, Scalar]) -> None:
        body = self.spec.trial_body(params)
        problem = _validation_message(self.spec, params)
        child = self._submit(JobKind.TRIAL, body, params, name=f"trial {number}", number=number)
        if problem is None:
            self.result.hints.append((child.queue, child.id, child.priority))
        else:
            self.trials[number] = lifecycle.fail_queued(self.session, child.id, Reason.INVALID_PARAMS, problem)
            self._tell(self._optuna_trials()[number])

    def _submit(
        self,
        kind: JobKind,
        body: Json,
        params: Mapping[str, Scalar],
        *,
        name: str,
        number: int | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Job:
        resources = self.spec.base.resources
        new = submission.NewJob(
            kind=kind,
            spec=body,
            spec_digest=digest(body),
            queue=(self.job.params or {})["trial_queue"],
            name=name,
            tags=tags or {},
            priority=self.job.priority,
            max_attempts=resources.max_attempts,
            queue_timeout_seconds=resources.queue_timeout_seconds,
            dataset=self.job.dataset,
            dataset_fingerprint=self.job.dataset_fingerprint,
            parent_id=self.job.id,
            trial_number=number,
            params=dict(params),
            created_by=self.job.created_by,
        )
        child = submission.submit(self.session, new).job
        self.children.append(child)
        if number is None:
            self.result.hints.append((child.queue, child.id, child.priority))
        else:
            self.trials[number] = child
        return child

    # --- telling

    def _optuna_trials(self) -> list[FrozenTrial]:
        """Optuna's trials by number."""
        return self.study.get_trials(deepcopy=False)

    def _tell_all(self) -> None:
        for frozen in self._optuna_trials():
            if frozen.number in self.trials and not frozen.state.is_finished():
                self._tell(frozen)

    def _tell(self, frozen: FrozenTrial) -> None:
        """Report a trial's epochs to Optuna and, once it has ended, its result."""
        child = self.trials[frozen.number]
        trial = Trial(self.study, frozen._trial_id)
        open_still = not frozen.state.is_finished()  # else told by an advance that was rolled back
        reports = self._reports(child)
        for epoch, reported in reports.items():
            if open_still and epoch not in frozen.intermediate_values:
                trial.report(reported, epoch)
        if child.state not in TERMINAL:
            running = child.state is JobState.RUNNING and child.wanted is Wanted.RUN
            epochs_left = reports and max(reports) < child.spec["trainer"]["max_epochs"]  # else nothing is saved
            if running and epochs_left and self.prunable and trial.should_prune():
                self._request(child, Wanted.PRUNE)
            return
        value = _objective_value(child)
        if value is not None:
            self.study.tell(frozen.number, value, skip_if_finished=True)
            problem = f"{self.spec.objective.metric} {value:.6g}"
        elif _is_pruned(child):
            self.study.tell(frozen.number, state=TrialState.PRUNED, skip_if_finished=True)
            problem = f"after epoch {max(reports, default=0)}"
        else:
            problem = f"{_reason_of(child)}: {child.message or 'no message'}"
            if open_still:
                trial.set_user_attr("reason", _reason_of(child))
                trial.set_user_attr("message", child.message or "")
            self.study.tell(frozen.number, state=TrialState.FAIL, skip_if_finished=True)
        ended = JobState.PRUNED if _is_pruned(child) else child.state
        body = {"level": "info", "message": f"trial {frozen.number} {ended.value}: {problem}"}
        history.add_event(self.session, self.job.id, "log", body, self.job.attempt)

    def _reports(self, child: Job) -> dict[int, float]:
        """The objective by epoch, without undefined values."""
        metric = self.spec.objective.metric
        points = history.series(self.session, child.id, [metric], max_points=100_000).get(metric, {})
        pairs = zip(points.get("step", []), points.get("value", []), strict=True)
        return {int(step or 0): float(value) for step, value in pairs if value is not None}

    def _request(self, child: Job, wanted: Wanted) -> None:
        reason = Reason.PARENT_STOPPED if wanted is Wanted.CANCEL else Reason.PRUNED
        try:
            lifecycle.want(self.session, child.id, wanted, by="study", reason=reason)
        except IllegalTransition:  # it has just ended by itself: the next advance handles it
            return
        self.result.changed.append(child.id)

    # --- ending

    def _objective_values(self) -> dict[int, float]:
        values = {number: _objective_value(child) for number, child in self.trials.items()}
        return {number: value for number, value in values.items() if value is not None}

    def _best_number(self, values: Mapping[int, float]) -> int:
        return max(sorted(values), key=lambda number: self.sign * values[number])

    def _finish_if_over(self) -> bool:
        """Finish the study if no trial is to be started any more; True if so."""
        values, goal, metric = self._objective_values(), self.spec.goal, self.spec.objective.metric
        best = values[self._best_number(values)] if values else None
        if goal is not None and best is not None and self.sign * best >= self.sign * goal:
            message = f"{metric} reached {best:.6g}; the goal was {goal:.6g}"
            return self._finish(JobState.SUCCEEDED, Reason.GOAL_REACHED, message)
        failed = [c for c in self.trials.values() if _is_failure(c)]
        if len(failed) > self.spec.max_failed_trials:
            reasons = ", ".join(sorted({_reason_of(c) for c in failed}))
            message = f"{len(failed)} trials failed ({reasons}); max_failed_trials is {self.spec.max_failed_trials}"
            return self._finish(JobState.FAILED, Reason.TOO_MANY_FAILED_TRIALS, message)
        done = sum(c.state in TERMINAL for c in self.trials.values())
        stopped = any(c.reason is Reason.PARENT_STOPPED for c in self.trials.values())
        if self.timed_out and (done < self.num_trials or stopped):
            message = f"timeout_seconds {self.spec.timeout_seconds:g} is over: {len(values)} trials have a value"
            return self._finish(JobState.SUCCEEDED if values else JobState.FAILED, Reason.TIMEOUT_EXEC, message)
        if done < self.num_trials:
            return False
        if not values:
            message = f"none of {done} trials ended with a value of {metric}"
            return self._finish(JobState.FAILED, Reason.OBJECTIVE_MISSING, message)
        return self._finish(JobState.SUCCEEDED, None, None)

    def _finish(self, to: JobState, reason: Reason | None, message: str | None) -> bool:
        """Stop unfinished trials; once none is left, have the plots drawn, and settle the study. Always True."""
        for child in self.children:
            if child.state not in TERMINAL and child.wanted is not Wanted.CANCEL:
                self._request(child, Wanted.CANCEL)
        if any(child.state not in TERMINAL for child in self.children):
            self._write_progress("ending")
            return True
        self._tell_all()
        for frozen in self._optuna_trials():
            if frozen.state is TrialState.RUNNING and frozen.number not in self.trials:  # it never became a job
                self.study.tell(frozen.number, state=TrialState.FAIL, skip_if_finished=True)
        self._write_progress("ending")
        if self.trials and self.plots is None:
            self.result.draw_plots = self.spec
            return True
        plots = self.plots or Plots()
        for output in plots.outputs:
            catalog.add_artifact(
                self.session,
                self.job.id,
                self.job.attempt,
                name=output.name,
                path=output.path,
                size_bytes=output.size_bytes,
                sha256=output.sha256,
                media_type=output.media_type,
            )
        if plots.error is not None:
            body = {"level": "warning", "message": plots.error}
            history.add_event(self.session, self.job.id, "log", body, self.job.attempt)
        end = lifecycle.AttemptEnd(reason=reason, message=message)
        lifecycle.settle(self.session, self.job.id, self.job.attempt, to, end)
        return True

    # --- showing

    def _write_progress(self, phase: str) -> None:
        """Write the study's progress and best trial where they have changed."""
        done = sum(c.state in TERMINAL for c in self.trials.values())
        counts = {s.value: sum(c.state is s for c in self.trials.values()) for s in JobState}
        progress: Json = {
            "phase": phase, "epoch": 0, "epochs": 0, "step": done, "steps": self.num_trials,
            "ratio": done / self.num_trials, "eta_seconds": None, "samples_per_second": None, "trials": counts,
        }  # fmt: skip
        if progress != self.job.progress:
            history.set_progress(self.session, self.job.id, self.job.attempt, progress)
        values = self._objective_values()
        if not values:
            return
        number = self._best_number(values)
        child = self.trials[number]
        best: Best = {**(child.best or {}), "trial": number, "job_id": str(child.id), "params": child.point}
        if best != self.job.best:
            history.set_best(self.session, self.job.id, self.job.attempt, best)


def _running_seconds(session: Session, job: Job) -> float:
    """The study's running time in seconds, by the database's clock."""
    now = session.scalars(select(func.clock_timestamp())).one()
    return (now - job.started_at).total_seconds() if job.started_at is not None else 0.0


def _objective_value(child: Job) -> float | None:
    """The objective at the trial's best epoch; None unless it succeeded."""
    value = child.best.get("value") if child.best else None
    return float(value) if child.state is JobState.SUCCEEDED and isinstance(value, int | float) else None


def _is_failure(child: Job) -> bool:
    """True if it counts against max_failed_trials: it ended without a value, and not because the study ended."""
    if child.state in (JobState.FAILED, JobState.CANCELLED):
        return child.reason not in (Reason.PARENT_STOPPED, Reason.PRUNED)
    return child.state is JobState.SUCCEEDED and _objective_value(child) is None


def _is_pruned(child: Job) -> bool:
    """True also for a pruned trial that a draining worker had just requeued, and that was cancelled in the queue."""
    return child.state is JobState.PRUNED or (child.state is JobState.CANCELLED and child.reason is Reason.PRUNED)


def _reason_of(child: Job) -> str:
    if child.state is JobState.SUCCEEDED:
        return Reason.OBJECTIVE_MISSING.value
    return child.reason.value if child.reason is not None else child.state.value


def _validation_message(spec: HpoSpec, params: Mapping[str, Scalar]) -> str | None:
    """The validation error of a trial's parameters; None if they are valid."""
    try:
        spec.trial_spec(params)
    except ValidationError as wrong:
        return "; ".join(str(error["msg"]) for error in wrong.errors())
    return None
