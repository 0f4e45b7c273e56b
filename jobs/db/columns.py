"""What the JSON columns of a job hold. The keys are those of stored rows: a release may add one, none is renamed."""

from typing import NotRequired

from pydantic import JsonValue
from typing_extensions import TypedDict  # pydantic reads the standard library's from Python 3.12 on


class Checkpoint(TypedDict):
    """The newest whole checkpoint of a job; `path` is relative to the job's folder."""

    path: str
    step: int
    epoch: int
    sha256: str
    fold: NotRequired[int]  # absent in rows of releases before folds, which had one
    previous: NotRequired["Checkpoint"]  # to fall back on when a bit of this one is damaged


class Best(TypedDict, total=False):
    """The best epoch by the objective. A study has that of its best `trial`, with the trial's job and parameters.
    No key is required: a release that wrote the row may have known fewer.
    """

    epoch: int
    objective: str | None
    value: float | None
    metrics: dict[str, float | None]
    trial: int
    job_id: str
    params: dict[str, JsonValue] | None


class SourceFile(TypedDict):
    """An uploaded file as the client sent it."""

    name: str
    size_bytes: int | None
    sha256: str | None


class Weights(TypedDict):
    """The weights that a prediction uses, and the digests that identify them; `folder` is under the run root. Of an
    ensemble, `weights` and `sha256` are those of all members, joined by ", ".
    """

    folder: str
    weights: str
    sha256: str
    spec_digest: str
    features_sha256: str


class JobParams(TypedDict, total=False):
    """What a job was given besides its spec. A trial's params are its point of the study's space instead."""

    files: dict[str, str]  # of a dataset's build: role to `data:…` or `upload:…`
    sources: dict[str, SourceFile]  # of an upload, by role
    model: Weights  # of a prediction
    trial_queue: str  # of a study
    rerun_of: str  # of a rerun: the id of its source
    baselines: str  # of a run that ended without them: the digest of the job that computes them
