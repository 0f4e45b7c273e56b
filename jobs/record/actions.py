"""What may be done with a job now. The endpoints ask `refusal`, and a job's view lists the actions that it allows."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from atft.spec.kinds import KINDS, JobKind, Kind, kinds_where
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


class _Facts(NamedTuple):
    """What the rules look at: jobs of equal facts allow the same actions."""

    kind: JobKind
    state: JobState
    wanted: Wanted
    timed_out: bool
    has_best: bool
    has_upload: bool


def _facts_of(job: Job) -> _Facts:
    files = (job.params or {}).get("files", {}) if KINDS[job.kind].builds else {}
    return _Facts(
        kind=job.kind,
        state=job.state,
        wanted=job.wanted,
        timed_out=job.reason is Reason.TIMEOUT_EXEC,
        has_best=job.best is not None,
        has_upload=any(path.startswith("upload:") for path in files.values()),
    )


def refusal(job: Job, action: Action) -> str | None:
    """Why the action is refused; null when it is allowed. Allowed is also what has been requested already."""
    text = _RULES[action](_facts_of(job), KINDS[job.kind])
    return None if text is None else text.format(id=job.id, parent_id=job.parent_id)


def actions(job: Job) -> list[Action]:
    """The actions that are allowed and would change something."""
    return [*_actions(_facts_of(job))]


@lru_cache(maxsize=1024)
def _actions(facts: _Facts) -> tuple[Action, ...]:
    kind = KINDS[facts.kind]
    return tuple(
        action
        for action, rule in _RULES.items()
        if _WANTED.get(action) is not facts.wanted and rule(facts, kind) is None
    )


def _unfinished(facts: _Facts, _: Kind) -> str | None:
    return f"job {{id}} is {facts.state}: it cannot be changed any more" if facts.state in TERMINAL else None


def _resume(facts: _Facts, kind: Kind) -> str | None:
    if facts.state not in TERMINAL and facts.wanted in (Wanted.CANCEL, Wanted.PRUNE):
        return "job {id} is being ended: that cannot be taken back"
    return _unfinished(facts, kind)


def _pause(facts: _Facts, kind: Kind) -> str | None:
    found = _resume(facts, kind)
    if found is None and kind.coordinating:
        return "job {id} only coordinates others: it cannot be paused"
    return found


def _retry(facts: _Facts, kind: Kind) -> str | None:
    found = _repeat(facts, kind, Action.RETRY, allowed=kind.retryable, states=(JobState.CANCELLED, JobState.FAILED))
    if found is None and facts.timed_out:
        return "job {id} has used up its trainer.timeout_seconds, which a retry shares: submit it with more"
    return found


def _rerun(facts: _Facts, kind: Kind) -> str | None:
    found = _repeat(facts, kind, Action.RERUN, allowed=kind.rerunnable, states=(JobState.SUCCEEDED,))
    if found is None and facts.has_upload:
        return "job {id} has built its upload, which is not kept: upload the files again"
    return found


def _repeat(facts: _Facts, kind: Kind, action: Action, *, allowed: bool, states: tuple[JobState, ...]) -> str | None:
    if kind.of_study:
        return "job {id} belongs to study {parent_id}: promote it to train it by itself"
    if not allowed:
        return f"job {{id}} is of kind {facts.kind}, which has no {action}: submit its spec again"
    if facts.state not in states:
        return f"job {{id}} is {facts.state}: only a {' or '.join(states)} job has a {action}"
    return None


def _promote(facts: _Facts, kind: Kind) -> str | None:
    if not kind.promotable:
        return f"job {{id}} is of kind {facts.kind}: promote an hpo or training job"
    if kind.coordinating and not facts.has_best:
        return "no trial of study {id} has a value yet"
    return None


def _predict(facts: _Facts, kind: Kind) -> str | None:
    if not kind.predicts:
        return f"job {{id}} is of kind {facts.kind}: give a {_nouns(lambda one: one.predicts, ' or ')}"
    if facts.state is not JobState.SUCCEEDED:
        return f"job {{id}} is {facts.state}: only a job that has succeeded predicts"
    return None


def _init_from(facts: _Facts, kind: Kind) -> str | None:
    if not kind.initializes:
        return f"job {{id}} is of kind {facts.kind}: begin with a {_nouns(lambda one: one.initializes, ' or ')}"
    if facts.state is not JobState.SUCCEEDED:
        return f"job {{id}} is {facts.state}: begin with a job that has succeeded"
    return None


def _compare(facts: _Facts, kind: Kind) -> str | None:
    if kind.comparable:
        return None
    instead = "; give its trials, or the job its best one was promoted to" if kind.coordinating else ""
    return f"{{id}} is of kind {facts.kind}: {_nouns(lambda one: one.comparable, ' and ', 's')} are compared{instead}"


def _nouns(condition: Callable[[Kind], bool], joint: str, ending: str = "") -> str:
    """The names of such jobs in a sentence, such as `training jobs, trials and ensembles`."""
    *others, last = (KINDS[kind].noun + ending for kind in kinds_where(condition))
    return f"{', '.join(others)}{joint}{last}"


_RULES: Final[Mapping[Action, Callable[[_Facts, Kind], str | None]]] = {
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
