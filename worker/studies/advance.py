"""One study: Optuna's ask, tell and prune, under the study's row lock.

Each advance is short and may come at any time, any number of times, from any process: it reads what the trials' rows
say, tells Optuna, prunes, ends the study or asks for new trials. A trial is a job. One that failed is FAIL with its
reason, and never a number.
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
from jobs.db.session import transaction
from jobs.db.tables import Job, Json
from jobs.errors import IllegalTransition
from jobs.record import catalog, history, lifecycle, submission
from jobs.settings import Settings
from jobs.states import TERMINAL, JobKind, JobState, Reason, Wanted
from worker.persistence import AWAY
from worker.studies.plots import Pictures, draw
from worker.studies.sampling import open_study, parameters

EXTREMES: Final[tuple[Literal["low", "high"], ...]] = ("low", "high")
logger = logging.getLogger(__name__)
_CHILD = load_only(
    Job.id, Job.kind, Job.state, Job.reason, Job.message, Job.wanted, Job.trial_number, Job.params, Job.tags, Job.best,
    Job.queue, Job.priority, Job.attempt,
)  # fmt: skip


@dataclass
class News:
    """What to say after the commit: hints of jobs (queue, id, priority), and jobs whose readers should look. `draw`
    says that the study has ended but for its pictures.
    """

    hints: list[tuple[str, UUID, int]] = field(default_factory=list)
    changed: list[UUID] = field(default_factory=list)
    draw: HpoSpec | None = None


def advance(sessions: sessionmaker[Session], storage: BaseStorage, settings: Settings, job_id: UUID) -> News:
    """Take the study one step on. While Postgres is away nothing happens: the sweep asks again."""
    pictures: Pictures | None = None
    news = News()
    try:
        while True:
            with transaction(sessions) as session:
                job = lifecycle.begin_study(session, job_id)
                if job is None:
                    return news
                step = _step(session, storage, job, pictures)
            news.hints += step.hints
            news.changed += step.changed
            if step.draw is None:
                return news
            pictures = draw(settings, storage, job_id, step.draw)  # seconds, so not under the lock
    except (*AWAY, optuna.exceptions.StorageInternalError) as error:
        logger.warning("study %s: Postgres is away: %s", job_id, error)
        return news


def _step(session: Session, storage: BaseStorage, job: Job, pictures: Pictures | None) -> News:
    try:
        spec = HpoSpec.model_validate(job.spec)
    except ValidationError as error:
        message = f"the study's spec is not valid for this version: {error}"
        lifecycle.settle(session, job.id, job.attempt, JobState.FAILED, reason=Reason.INVALID_PARAMS, message=message)
        return News(changed=[job.id])
    step = Step(session, storage, job, spec, pictures)
    step.run()
    return step.news


class Step:
    """One advance, inside one transaction that holds the study's row."""

    def __init__(
        self, session: Session, storage: BaseStorage, job: Job, spec: HpoSpec, pictures: Pictures | None
    ) -> None:
        self.session, self.job, self.spec, self.pictures = session, job, spec, pictures
        self.news = News(changed=[job.id])
        children = select(Job).where(Job.parent_id == job.id).order_by(Job.created_at, Job.id).options(_CHILD)
        self.children = list(session.scalars(children))
        self.trials = {c.trial_number: c for c in self.children if c.trial_number is not None}
        self.study = open_study(storage, job.id, spec)
        self.num_trials = spec.num_trials
        self.sign = 1 if spec.objective.direction == "maximize" else -1
        self.prunable = spec.base.split.num_splits == 1  # the mean over folds comes once all of them are trained
        self.timed_out = spec.timeout_seconds is not None and _seconds_of(session, job) > spec.timeout_seconds

    def run(self) -> None:
        if self.job.wanted is Wanted.CANCEL:
            self._end(JobState.CANCELLED, Reason.USER, "cancelled with all its trials")
            return
        if not self.timed_out and not self._preflight_passed():
            return
        self._adopt()
        self._tell_all()
        while not self._over():
            alive = sum(c.state not in TERMINAL for c in self.trials.values())
            if alive >= self.spec.parallelism or len(self.trials) >= self.num_trials:
                self._show("trials")
                return
            self._ask()

    # --- before the first trial

    def _preflight_passed(self) -> bool:
        """Both extremes of the space have run one step; else that is under way, or the study ends."""
        runs = {str(c.tags.get("preflight")): c for c in self.children if c.kind is JobKind.PREFLIGHT}
        for extreme in EXTREMES:
            if extreme not in runs and not self._submit_preflight(extreme):
                return False
        for which, child in runs.items():
            if child.state in TERMINAL and child.state is not JobState.SUCCEEDED:
                return self._refuse_space(which, child.params or {}, child.message or _why(child))
        if all(c.state is JobState.SUCCEEDED for c in runs.values()) and len(runs) == len(EXTREMES):
            return True
        self._show("preflight")
        return False

    def _submit_preflight(self, extreme: Literal["low", "high"]) -> bool:
        params = self.spec.extreme(extreme)
        body = self.spec.trial_body(params)
        said = _invalid(self.spec, params)
        if said is not None:
            return self._refuse_space(extreme, params, said)
        self._submit(JobKind.PREFLIGHT, body, params, name=f"preflight, {extreme}", tags={"preflight": extreme})
        return True

    def _refuse_space(self, extreme: str, params: Mapping[str, Scalar], said: str) -> bool:
        message = f"the {extreme} extreme of the space, {json.dumps(dict(params))}, cannot run: {said}"
        self._end(JobState.FAILED, Reason.PREFLIGHT_FAILED, message)
        return False

    # --- asking

    def _ask(self) -> None:
        enqueued = sum("enqueued" in trial.user_attrs for trial in self._frozen())
        for number, point in enumerate(self.spec.enqueue[enqueued:], start=enqueued):
            self.study.enqueue_trial(dict(point), user_attrs={"enqueued": number})
        trial = self.study.ask()
        self._submit_trial(trial.number, parameters(self.study, trial, self.spec))

    def _adopt(self) -> None:
        """A trial of Optuna's without a job is left by a crash between the two: its job is made now, from its point."""
        for frozen in self._frozen():
            if frozen.state is TrialState.WAITING or frozen.number in self.trials:
                continue
            if frozen.state is TrialState.RUNNING:
                trial = Trial(self.study, frozen._trial_id)
                self._submit_trial(frozen.number, parameters(self.study, trial, self.spec))
            else:
                self._submit_trial(frozen.number, frozen.params)

    def _submit_trial(self, number: int, params: Mapping[str, Scalar]) -> None:
        body = self.spec.trial_body(params)
        said = _invalid(self.spec, params)
        child = self._submit(JobKind.TRIAL, body, params, name=f"trial {number}", number=number)
        if said is None:
            self.news.hints.append((child.queue, child.id, child.priority))
        else:
            self.trials[number] = lifecycle.fail_queued(self.session, child.id, Reason.INVALID_PARAMS, said)
            self._tell(self._frozen()[number])

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
        child = submission.submit(
            self.session,
            kind=kind,
            spec=body,
            spec_digest=digest(body),
            queue=(self.job.params or {})["trial_queue"],
            name=name,
            tags=tags,
            priority=self.job.priority,
            max_attempts=resources.max_attempts,
            queue_timeout_seconds=resources.queue_timeout_seconds,
            dataset=self.job.dataset,
            dataset_fingerprint=self.job.dataset_fingerprint,
            parent_id=self.job.id,
            trial_number=number,
            params=dict(params),
            created_by=self.job.created_by,
        ).job
        self.children.append(child)
        if number is None:
            self.news.hints.append((child.queue, child.id, child.priority))
        else:
            self.trials[number] = child
        return child

    # --- telling

    def _frozen(self) -> list[FrozenTrial]:
        """Optuna's trials by number."""
        return self.study.get_trials(deepcopy=False)

    def _tell_all(self) -> None:
        for frozen in self._frozen():
            if frozen.number in self.trials and not frozen.state.is_finished():
                self._tell(frozen)

    def _tell(self, frozen: FrozenTrial) -> None:
        """What the trial's own rows say: its epochs, and once it is over how it ended."""
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
                self._want(child, Wanted.PRUNE)
            return
        value = _value(child)
        if value is not None:
            self.study.tell(frozen.number, value, skip_if_finished=True)
            said = f"{self.spec.objective.metric} {value:.6g}"
        elif _pruned(child):
            self.study.tell(frozen.number, state=TrialState.PRUNED, skip_if_finished=True)
            said = f"after epoch {max(reports, default=0)}"
        else:
            said = f"{_why(child)}: {child.message or 'no message'}"
            if open_still:
                trial.set_user_attr("reason", _why(child))
                trial.set_user_attr("message", child.message or "")
            self.study.tell(frozen.number, state=TrialState.FAIL, skip_if_finished=True)
        ended = JobState.PRUNED if _pruned(child) else child.state
        body = {"level": "info", "message": f"trial {frozen.number} {ended.value}: {said}"}
        history.add_event(self.session, self.job.id, "log", body, self.job.attempt)

    def _reports(self, child: Job) -> dict[int, float]:
        """Epoch and objective; an undefined value is no report."""
        metric = self.spec.objective.metric
        points = history.series(self.session, child.id, [metric], max_points=100_000).get(metric, {})
        pairs = zip(points.get("step", []), points.get("value", []), strict=True)
        return {int(step or 0): float(value) for step, value in pairs if value is not None}

    def _want(self, child: Job, wanted: Wanted) -> None:
        reason = Reason.PARENT_STOPPED if wanted is Wanted.CANCEL else Reason.PRUNED
        try:
            lifecycle.want(self.session, child.id, wanted, by="study", reason=reason)
        except IllegalTransition:  # it has just ended by itself: the next advance hears how
            return
        self.news.changed.append(child.id)

    # --- ending

    def _values(self) -> dict[int, float]:
        values = {number: _value(child) for number, child in self.trials.items()}
        return {number: value for number, value in values.items() if value is not None}

    def _best_number(self, values: Mapping[int, float]) -> int:
        return max(sorted(values), key=lambda number: self.sign * values[number])

    def _over(self) -> bool:
        """Whether there is a reason to start nothing more; if so the study is being ended, or has been."""
        values, goal, metric = self._values(), self.spec.goal, self.spec.objective.metric
        best = values[self._best_number(values)] if values else None
        if goal is not None and best is not None and self.sign * best >= self.sign * goal:
            message = f"{metric} reached {best:.6g}; the goal was {goal:.6g}"
            return self._end(JobState.SUCCEEDED, Reason.GOAL_REACHED, message)
        failed = [c for c in self.trials.values() if _failed(c)]
        if len(failed) > self.spec.max_failed_trials:
            reasons = ", ".join(sorted({_why(c) for c in failed}))
            message = f"{len(failed)} trials failed ({reasons}); max_failed_trials is {self.spec.max_failed_trials}"
            return self._end(JobState.FAILED, Reason.TOO_MANY_FAILED_TRIALS, message)
        done = sum(c.state in TERMINAL for c in self.trials.values())
        stopped = any(c.reason is Reason.PARENT_STOPPED for c in self.trials.values())
        if self.timed_out and (done < self.num_trials or stopped):
            message = f"timeout_seconds {self.spec.timeout_seconds:g} is over: {len(values)} trials have a value"
            return self._end(JobState.SUCCEEDED if values else JobState.FAILED, Reason.TIMEOUT_EXEC, message)
        if done < self.num_trials:
            return False
        if not values:
            message = f"none of {done} trials ended with a value of {metric}"
            return self._end(JobState.FAILED, Reason.OBJECTIVE_MISSING, message)
        return self._end(JobState.SUCCEEDED, None, None)

    def _end(self, to: JobState, reason: Reason | None, message: str | None) -> bool:
        """Stop what still runs; once nothing does, have the pictures drawn, and settle."""
        for child in self.children:
            if child.state not in TERMINAL and child.wanted is not Wanted.CANCEL:
                self._want(child, Wanted.CANCEL)
        if any(child.state not in TERMINAL for child in self.children):
            self._show("ending")
            return True
        self._tell_all()
        for frozen in self._frozen():
            if frozen.state is TrialState.RUNNING and frozen.number not in self.trials:  # it never became a job
                self.study.tell(frozen.number, state=TrialState.FAIL, skip_if_finished=True)
        self._show("ending")
        if self.trials and self.pictures is None:
            self.news.draw = self.spec
            return True
        pictures = self.pictures or Pictures()
        for output in pictures.outputs:
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
        if pictures.missing is not None:
            body = {"level": "warning", "message": pictures.missing}
            history.add_event(self.session, self.job.id, "log", body, self.job.attempt)
        lifecycle.settle(self.session, self.job.id, self.job.attempt, to, reason=reason, message=message)
        return True

    # --- showing

    def _show(self, phase: str) -> None:
        """Progress and best of the study's row, where they have changed."""
        done = sum(c.state in TERMINAL for c in self.trials.values())
        counts = {s.value: sum(c.state is s for c in self.trials.values()) for s in JobState}
        progress: Json = {
            "phase": phase, "epoch": 0, "epochs": 0, "step": done, "steps": self.num_trials,
            "ratio": done / self.num_trials, "eta_seconds": None, "samples_per_second": None, "trials": counts,
        }  # fmt: skip
        if progress != self.job.progress:
            history.set_progress(self.session, self.job.id, self.job.attempt, progress)
        values = self._values()
        if not values:
            return
        number = self._best_number(values)
        child = self.trials[number]
        body = child.best or {}
        best: Json = body | {"trial": number, "job_id": str(child.id), "params": child.params}
        if best != self.job.best:
            history.set_best(self.session, self.job.id, self.job.attempt, best)


def _seconds_of(session: Session, job: Job) -> float:
    """How long a study has run, by the database's clock."""
    now = session.scalars(select(func.clock_timestamp())).one()
    return (now - job.started_at).total_seconds() if job.started_at is not None else 0.0


def _value(child: Job) -> float | None:
    """The trial's objective: its best epoch's, and only when it succeeded."""
    value = child.best.get("value") if child.best else None
    return float(value) if child.state is JobState.SUCCEEDED and isinstance(value, int | float) else None


def _failed(child: Job) -> bool:
    """It counts against max_failed_trials: it ended without a value, and not because the study ended."""
    if child.state in (JobState.FAILED, JobState.CANCELLED):
        return child.reason not in (Reason.PARENT_STOPPED, Reason.PRUNED)
    return child.state is JobState.SUCCEEDED and _value(child) is None


def _pruned(child: Job) -> bool:
    """Also one that a draining worker had put back into the queue just before: what is queued is cancelled."""
    return child.state is JobState.PRUNED or (child.state is JobState.CANCELLED and child.reason is Reason.PRUNED)


def _why(child: Job) -> str:
    if child.state is JobState.SUCCEEDED:
        return Reason.OBJECTIVE_MISSING.value
    return child.reason.value if child.reason is not None else child.state.value


def _invalid(spec: HpoSpec, params: Mapping[str, Scalar]) -> str | None:
    """Why these parameters make no training job; None when they do."""
    try:
        spec.trial_spec(params)
    except ValidationError as wrong:
        return "; ".join(str(error["msg"]) for error in wrong.errors())
    return None
