"""Response models built from rows, and their examples."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from pydantic import TypeAdapter

from api.http.schemas import HTTP_MODELS
from api.jobs.schemas import JOB_MODELS, BestEpoch, JobView
from api.jobs.views import job_view, status
from api.system.schemas import SYSTEM_MODELS
from api.training.schemas import TRAINING_MODELS
from jobs.db.tables import Job
from jobs.states import JobKind, JobState, Wanted

CONTRACT = {
    "id",
    "kind",
    "parent_id",
    "source_job_id",
    "name",
    "tags",
    "state",
    "wanted",
    "reason",
    "message",
    "attempt",
    "max_attempts",
    "priority",
    "queue",
    "dataset",
    "dataset_fingerprint",
    "spec",
    "spec_digest",
    "progress",
    "metrics",
    "best",
    "pending_reason",
    "queue_position",
    "created_at",
    "started_at",
    "finished_at",
    "worker",
    "actions",
    "links",
}
PROGRESS = {"epoch", "epochs", "step", "steps", "ratio", "eta_seconds", "samples_per_second"}


def job(state: JobState = JobState.RUNNING, wanted: Wanted = Wanted.RUN, attempt: int = 1) -> Job:
    return Job(
        id=uuid4(),
        kind=JobKind.TRAIN,
        tags={},
        state=state,
        wanted=wanted,
        attempt=attempt,
        max_attempts=3,
        priority=5,
        queue="cpu",
        spec={},
        spec_digest="d",
        metrics={"val/rank_ic": None},
        created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        version=3,
        progress={
            "phase": "train",
            "epoch": 1,
            "epochs": 2,
            "step": 3,
            "steps": 4,
            "ratio": 0.5,
            "micro_batch_seconds": 1.0,
        },
    )


@pytest.mark.parametrize(
    "model", [*HTTP_MODELS, *JOB_MODELS, *SYSTEM_MODELS, *TRAINING_MODELS], ids=lambda model: model.__name__
)
def test_example_is_an_instance_of_its_model(model: type[JobView]) -> None:
    examples = model.model_json_schema()["examples"]
    assert examples
    for example in examples:
        assert model.model_validate(example).model_dump(mode="json", exclude_unset=True) == example


def test_job_view_has_every_field_of_the_contract() -> None:
    view = job_view(job(), (None, None)).model_dump(mode="json")
    assert set(view) >= CONTRACT
    assert set(view["progress"]) >= PROGRESS
    assert view["created_at"] == "2026-01-02T03:04:05.678Z"
    assert view["links"]["events"] == f"/jobs/{view['id']}/events"


def test_pain_32_undefined_metric_is_null() -> None:
    assert job_view(job(), (None, None)).model_dump(mode="json")["metrics"] == {"val/rank_ic": None}


@pytest.mark.parametrize(
    ("state", "wanted", "attempt", "word"),
    [
        (JobState.QUEUED, Wanted.RUN, 0, "queued"),
        (JobState.RUNNING, Wanted.RUN, 1, "running"),
        (JobState.RUNNING, Wanted.CANCEL, 1, "cancelling"),
        (JobState.RUNNING, Wanted.PAUSE, 1, "pausing"),
        (JobState.QUEUED, Wanted.RUN, 1, "recovering"),
        (JobState.RUNNING, Wanted.RUN, 2, "recovering"),
        (JobState.PAUSED, Wanted.PAUSE, 1, "paused"),
        (JobState.FAILED, Wanted.CANCEL, 2, "failed"),
    ],
)
def test_status_is_derived_from_state_wanted_and_attempt(
    state: JobState, wanted: Wanted, attempt: int, word: str
) -> None:
    assert status(job(state, wanted, attempt)) == word


def test_the_best_epoch_of_any_stored_row_is_read() -> None:
    """With keys that this release does not know, and without those that an earlier one did not write."""
    view = TypeAdapter(BestEpoch)
    study = {"epoch": 2, "metrics": {"val/rank_ic": None}, "value": 0.1, "trial": 0, "job_id": "x", "params": {"a": 1}}
    assert view.validate_python(study) == study
    assert view.validate_python({"epoch": 1, "metrics": {}, "more": 1}) == {"epoch": 1, "metrics": {}}
    assert view.validate_python({}) == {}
