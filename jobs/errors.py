"""Exceptions of the job record, grouped by what a caller can do about them.

JobsError
├── NotFound            JobNotFound, DatasetNotFound, ArtifactNotFound, KeyNotFound   (name something that exists)
├── Conflict            IllegalTransition, DatasetBusy, PreconditionFailed            (read again, then decide)
├── Invalid             IdempotencyMismatch                                           (change the request)
├── QuotaExceeded       the key has reached a quota                                   (wait, then retry)
└── StaleAttempt        another attempt runs the job now                              (write nothing more, stop)
"""


class JobsError(Exception):
    """Base class: the record could not carry out the operation."""


class NotFound(JobsError):
    """The named thing does not exist."""


class JobNotFound(NotFound):
    """No job has this id."""


class DatasetNotFound(NotFound):
    """No dataset has this name."""


class ArtifactNotFound(NotFound):
    """The job has no artifact of this name."""


class KeyNotFound(NotFound):
    """No API key has this id."""


class Conflict(JobsError):
    """The current state does not allow the operation."""


class IllegalTransition(Conflict):
    """The job's state does not allow this transition."""


class DatasetBusy(Conflict):
    """Unfinished jobs use this dataset."""


class PreconditionFailed(JobsError):
    """The job has changed since the version named in If-Match."""


class Invalid(JobsError):
    """The request is invalid; `pointer` names the field."""

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class IdempotencyMismatch(Invalid):
    """The Idempotency-Key was used before with another body."""


class QuotaExceeded(JobsError):
    """The API key has reached one of its quotas."""


class StaleAttempt(JobsError):
    """The caller's attempt is no longer the current one of the job; nothing was written."""
