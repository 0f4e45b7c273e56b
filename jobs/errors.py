"""What can go wrong with the record, by what a caller can do about it.

JobsError
├── NotFound            JobNotFound, DatasetNotFound, ArtifactNotFound, KeyNotFound   (ask for something else)
├── Conflict            IllegalTransition, DatasetBusy, PreconditionFailed                  (look again, then decide)
├── Invalid             IdempotencyMismatch, InvalidRequest                           (change the request)
├── QuotaExceeded       too much at once for this key                                 (wait, then the same again)
└── StaleAttempt               the caller's attempt is no longer the current one: write nothing more and stop
"""


class JobsError(Exception):
    """The record could not do what was asked."""


class NotFound(JobsError):
    """No such thing."""


class JobNotFound(NotFound):
    """No job has this id."""


class DatasetNotFound(NotFound):
    """No dataset has this name."""


class ArtifactNotFound(NotFound):
    """The job has no artifact of this name."""


class KeyNotFound(NotFound):
    """No API key has this id."""


class Conflict(JobsError):
    """The present state does not allow this."""


class IllegalTransition(Conflict):
    """The job's state does not allow this move."""


class DatasetBusy(Conflict):
    """Jobs that are not finished need this dataset."""


class PreconditionFailed(JobsError):
    """The job has changed since the version named in If-Match."""


class Invalid(JobsError):
    """The request cannot be carried out as it stands; `pointer` names the field."""

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class IdempotencyMismatch(Invalid):
    """This Idempotency-Key was used with another body."""


class QuotaExceeded(JobsError):
    """This key has as much as it may have at once."""


class StaleAttempt(JobsError):
    """Another attempt owns this job now; nothing was written."""
