"""What may be done with a job now. The endpoints ask `refusal`, and a job's view lists the actions that it allows."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from atft.spec.kinds import KINDS, Kind, kinds_where
from jobs.db.tables import Job
from jobs.states import TERMINAL, JobState, Reason, Wanted


class Action(StrEnum):
    """Something that may be done with a job."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    PRIORITY = "priority"
    RETRY = "retry"
    RERUN = "rerun"
    PROMOTE = "promote"
    PREDICT = "predict"
    INIT_FROM = "init_from"
    COMPARE = "compare"


_WANTED: Final = {Action.CANCEL: Wanted.CANCEL, Action.PAUSE: Wanted.PAUSE, Action.RESUME: Wanted.RUN}
ACTION_OF: Final = {wanted: action for action, wanted in _WANTED.items()} | {Wanted.PRUNE: Action.CANCEL}


def refusal(job: Job, action: Action) -> str | None:
    """Why the action is refused; null when it is allowed. Allowed is also what has been requested already."""
    return _RULES[action](job, KINDS[job.kind])


def actions(job: Job) -> list[Action]:
    """The actions that are allowed and would change something."""
    return [action for action in Action if _WANTED.get(action) is not job.wanted and refusal(job, action) is None]


def _unfinished(job: Job, _: Kind) -> str | None:
    return f"job {job.id} is {job.state}: it cannot be changed any more" if job.state in TERMINAL else None


def _resume(job: Job, kind: Kind) -> str | None:
    if job.state not in TERMINAL and job.wanted in (Wanted.CANCEL, Wanted.PRUNE):
        return f"job {job.id} is being ended: that cannot be taken back"
    return _unfinished(job, kind)


def _pause(job: Job, kind: Kind) -> str | None:
    found = _resume(job, kind)
    if found is None and kind.coordinating:
        return f"job {job.id} only coordinates others: it cannot be paused"
    return found


def _retry(job: Job, kind: Kind) -> str | None:
    found = _repeat(job, kind, Action.RETRY, allowed=kind.retryable, states=(JobState.CANCELLED, JobState.FAILED))
    if found is None and job.reason is Reason.TIMEOUT_EXEC:
        return f"job {job.id} has used up its trainer.timeout_seconds, which a retry shares: submit it with more"
    return found


def _rerun(job: Job, kind: Kind) -> str | None:
    found = _repeat(job, kind, Action.RERUN, allowed=kind.rerunnable, states=(JobState.SUCCEEDED,))
    if found is None and any(path.startswith("upload:") for path in (job.params or {}).get("files", {}).values()):
        return f"job {job.id} has built its upload, which is not kept: upload the files again"
    return found


def _repeat(job: Job, kind: Kind, action: Action, *, allowed: bool, states: tuple[JobState, ...]) -> str | None:
    if kind.of_study:
        return f"job {job.id} belongs to study {job.parent_id}: promote it to train it by itself"
    if not allowed:
        return f"job {job.id} is of kind {job.kind}, which has no {action}: submit its spec again"
    if job.state not in states:
        return f"job {job.id} is {job.state}: only a {' or '.join(states)} job has a {action}"
    return None


def _promote(job: Job, kind: Kind) -> str | None:
    if not kind.promotable:
        return f"job {job.id} is of kind {job.kind}: promote an hpo or training job"
    if kind.coordinating and job.best is None:
        return f"no trial of study {job.id} has a value yet"
    return None


def _predict(job: Job, kind: Kind) -> str | None:
    if not kind.predicts:
        return f"job {job.id} is of kind {job.kind}: give a {_nouns(lambda one: one.predicts, ' or ')}"
    if job.state is not JobState.SUCCEEDED:
        return f"job {job.id} is {job.state}: only a job that has succeeded predicts"
    return None


def _init_from(job: Job, kind: Kind) -> str | None:
    if not kind.initializes:
        sources = " or ".join(sorted(kinds_where(lambda one: one.initializes)))
        return f"job {job.id} is of kind {job.kind}: begin with a {sources} job"
    if job.state is not JobState.SUCCEEDED:
        return f"job {job.id} is {job.state}: begin with a job that has succeeded"
    return None


def _compare(job: Job, kind: Kind) -> str | None:
    if kind.comparable:
        return None
    instead = "; give its trials, or the job its best one was promoted to" if kind.coordinating else ""
    return f"{job.id} is of kind {job.kind}: {_nouns(lambda one: one.comparable, ' and ', 's')} are compared{instead}"


def _nouns(condition: Callable[[Kind], bool], joint: str, ending: str = "") -> str:
    """The names of such jobs in a sentence, such as `training jobs, trials and ensembles`."""
    *others, last = (KINDS[kind].noun + ending for kind in kinds_where(condition))
    return f"{', '.join(others)}{joint}{last}"


_RULES: Final[Mapping[Action, Callable[[Job, Kind], str | None]]] = {
    Action.CANCEL: _unfinished,
    Action.PAUSE: _pause,
    Action.RESUME: _resume,
    Action.PRIORITY: _unfinished,
    Action.RETRY: _retry,
    Action.RERUN: _rerun,
    Action.PROMOTE: _promote,
    Action.PREDICT: _predict,
    Action.INIT_FROM: _init_from,
    Action.COMPARE: _compare,
}
