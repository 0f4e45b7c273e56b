"""Advancing a study: Optuna's ask, tell and prune, under a lock on the study's row.

An advance is short and idempotent and may run at any time in any process: it reads the trials' rows, reports them to
Optuna, prunes, ends the study or asks for new trials. A trial is a job. A failed one is told to Optuna as FAIL with its
reason, never as a number.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Final
from uuid import UUID

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import ValidationError
from sqlalchemy.orm import Session, sessionmaker

from atft.spec.base import digest
from atft.spec.space import Scalar
from atft.spec.study import HpoSpec, PreflightSpec
from jobs.broker.queue import CONTROL
from jobs.db.columns import Best
from jobs.db.session import transaction
from jobs.db.tables import Job, Json
from jobs.record import catalog, history, lifecycle, submission
from jobs.settings import Settings
from jobs.states import TERMINAL, JobKind, JobState, Reason, Wanted
from worker.studies.failures import RecordedFailures, forget_failure
from worker.studies.plots import draw_missing, write_importance
from worker.studies.rows import StudyEnd, StudyRows, children_of, is_pruned, objective_value, reason_of, stop
from worker.studies.samplers import open_study, suggest_parameters

LAST_PRIORITY: Final = 9  # of drawing the plots of a study that has ended
MAX_ASKED: Final = 100  # trials in one transaction, which holds the lock: a trial that is refused at once makes room
OpenStorage = Callable[[], BaseStorage]


@dataclass
class AdvanceResult:
    """What to send after the commit: hints (queue, id, priority) and jobs whose followers to notify. `more` is set when
    there are more trials to ask for.
    """

    hints: list[tuple[str, UUID, int]] = field(default_factory=list)
    changed: list[UUID] = field(default_factory=list)
    more: bool = False


def advance(
    sessions: sessionmaker[Session], open_storage: OpenStorage, settings: Settings, job_id: UUID
) -> AdvanceResult:
    """Advance the study by one step; draw the plots of one that has ended without them. While Postgres is unavailable
    nothing happens; the sweeper sends another hint. Any other error is written down; one that comes again ends the
    study.
    """
    result = AdvanceResult()
    with RecordedFailures(sessions, job_id) as failures:
        while True:
            with transaction(sessions) as session:
                job = lifecycle.begin_study(session, job_id)
                if job is None:
                    break
                step = _step(session, open_storage, settings, job)
            result.hints += step.hints
            result.changed += step.changed
            if not step.more:
                return result
        draw_missing(sessions, open_storage, settings, job_id)
    result.changed += failures.changed
    return result


def _step(session: Session, open_storage: OpenStorage, settings: Settings, job: Job) -> AdvanceResult:
    try:
        spec = HpoSpec.from_stored(job.spec)
    except ValidationError as error:
        children = children_of(session, job)
        changed = [job.id, *stop(session, children)]
        if all(child.state in TERMINAL for child in children):
            message = f"the study's spec is not valid for this version: {error}"
            StudyEnd(JobState.FAILED, Reason.INVALID_PARAMS, message).settle(session, job)
        return AdvanceResult(changed=changed)
    step = AdvanceStep(session, open_storage, settings, job, spec)
    step.run()
    forget_failure(session, job)
    return step.result


class AdvanceStep:
    """One advance, inside one transaction that holds the lock on the study's row."""

    def __init__(
        self, session: Session, open_storage: OpenStorage, settings: Settings, job: Job, spec: HpoSpec
    ) -> None:
        self.session, self.settings, self.job, self.spec = session, settings, job, spec
        self.rows = StudyRows(session, job, spec)
        self.children, self.trials = self.rows.children, self.rows.trials
        self.result = AdvanceResult(changed=self.rows.changed)
        self.num_trials = spec.num_trials
        self.prunable = spec.base.split.num_splits == 1  # the mean over folds is known only once all are trained
        self._open_storage = open_storage

    @cached_property
    def study(self) -> optuna.Study:
        """The study as Optuna keeps it, opened by its first use."""
        return open_study(self._open_storage(), self.job.id, self.spec)

    def run(self) -> None:
        if self._finish_if_over() or not self._preflight_passed():
            return
        self._adopt_orphaned_trials()
        self._tell_all()
        for _ in range(MAX_ASKED):
            if self._finish_if_over():
                return
            unfinished = sum(c.state not in TERMINAL for c in self.trials.values())
            if unfinished >= self.spec.parallelism or len(self.trials) >= self.num_trials:
                self._write_progress("trials")
                return
            self._ask()
        self._write_progress("trials")
        self.result.more = True

    # --- before the first trial

    def _preflight_passed(self) -> bool:
        """True once both extremes of the space have run one step; else it submits that, waits, or ends the study."""
        runs = [c for c in self.children if c.kind is JobKind.PREFLIGHT]  # two in a study of an earlier version
        problem = None if runs else self._submit_preflight()
        for child in runs:
            if child.state in TERMINAL and child.state is not JobState.SUCCEEDED:
                problem = child.message or reason_of(child)
        if problem is not None:
            self._finish(StudyEnd(JobState.FAILED, Reason.PREFLIGHT_FAILED, problem))
            return False
        if runs and all(c.state is JobState.SUCCEEDED for c in runs):
            return True
        self._write_progress("preflight")
        return False

    def _submit_preflight(self) -> str | None:
        """Submit one job that tries both extremes; a sentence instead when one of them is not valid."""
        spec = PreflightSpec(
            base=self.spec.trial_spec({}), points={"low": self.spec.extreme("low"), "high": self.spec.extreme("high")}
        )
        for name, point in spec.points.items():
            if (problem := _validation_message(self.spec, point)) is not None:
                return f"the {name} extreme of the space, {json.dumps(point)}, cannot run: {problem}"
        self._submit(JobKind.PREFLIGHT, spec.model_dump(mode="json"), {}, name="preflight")
        return None

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
    ) -> Job:
        resources = self.spec.base.resources
        new = submission.NewJob(
            kind=kind,
            spec=body,
            spec_digest=digest(body),
            queue=(self.job.params or {})["trial_queue"],
            name=name,
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
                self.rows.request(child, Wanted.PRUNE)
            return
        value = objective_value(child)
        if value is not None:
            self.study.tell(frozen.number, value, skip_if_finished=True)
            problem = f"{self.spec.objective.metric} {value:.6g}"
        elif is_pruned(child):
            self.study.tell(frozen.number, state=TrialState.PRUNED, skip_if_finished=True)
            problem = f"after epoch {max(reports, default=0)}"
        else:
            problem = f"{reason_of(child)}: {child.message or 'no message'}"
            if open_still:
                trial.set_user_attr("reason", reason_of(child))
                trial.set_user_attr("message", child.message or "")
            self.study.tell(frozen.number, state=TrialState.FAIL, skip_if_finished=True)
        ended = JobState.PRUNED if is_pruned(child) else child.state
        body = {"level": "info", "message": f"trial {frozen.number} {ended.value}: {problem}"}
        history.add_event(self.session, self.job.id, "log", body, self.job.attempt)

    def _reports(self, child: Job) -> dict[int, float]:
        """The objective by epoch, without undefined values."""
        metric = self.spec.objective.metric
        points = history.series(self.session, child.id, [metric], max_points=100_000).get(metric, {})
        pairs = zip(points.get("step", []), points.get("value", []), strict=True)
        return {int(step or 0): float(value) for step, value in pairs if value is not None}

    # --- ending

    def _finish_if_over(self) -> bool:
        """Finish the study if no trial is to be started any more; True if so."""
        end = self.rows.end()
        if end is not None:
            self._finish(end)
        return end is not None

    def _finish(self, end: StudyEnd) -> None:
        """Stop unfinished trials; once none is left, write the importance and settle the study."""
        if not self.rows.stop_children():
            self._write_progress("ending")
            return
        self._tell_all()
        for frozen in self._optuna_trials():
            if frozen.state is TrialState.RUNNING and frozen.number not in self.trials:  # it never became a job
                self.study.tell(frozen.number, state=TrialState.FAIL, skip_if_finished=True)
        self._write_progress("ending")
        if self.trials:
            self._add_importance()
            self.result.hints.append((CONTROL, self.job.id, LAST_PRIORITY))
        end.settle(self.session, self.job)

    def _add_importance(self) -> None:
        try:
            output = write_importance(self.settings, self.study, self.spec, self.job.id)
        except OSError as error:  # a full disk must not keep the study from ending
            body = {"level": "warning", "message": f"the parameter importance cannot be written: {error}"}
            history.add_event(self.session, self.job.id, "log", body, self.job.attempt)
            return
        catalog.add_artifact(self.session, self.job.id, self.job.attempt, **asdict(output))

    # --- showing

    def _write_progress(self, phase: str) -> None:
        """Write the study's progress and best trial where they have changed."""
        done = sum(c.state in TERMINAL for c in self.trials.values())
        counts = {s.value: sum(c.state is s for c in self.trials.values()) for s in JobState}
        progress: Json = {
            "phase": phase, "epoch": 0, "epochs": 0, "step": done, "steps": self.num_trials,
            "ratio": min(1.0, done / self.num_trials), "eta_seconds": None, "samples_per_second": None,
            "trials": counts,
        }  # fmt: skip
        if progress != self.job.progress:
            history.set_progress(self.session, self.job.id, self.job.attempt, progress)
        values = self.rows.values()
        if not values:
            return
        number = self.rows.best_number(values)
        child = self.trials[number]
        best: Best = {**(child.best or {}), "trial": number, "job_id": str(child.id), "params": child.point}
        if best != self.job.best:
            history.set_best(self.session, self.job.id, self.job.attempt, best)


def _validation_message(spec: HpoSpec, params: Mapping[str, Scalar]) -> str | None:
    """The validation error of a trial's parameters; None if they are valid."""
    try:
        spec.trial_spec(params)
    except ValidationError as wrong:
        return "; ".join(str(error["msg"]) for error in wrong.errors())
    return None
