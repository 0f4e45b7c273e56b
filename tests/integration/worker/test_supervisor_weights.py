"""Jobs with `init_from`: the child gets the path of the weights and must report the digest that is on record."""

import json
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert
from sqlalchemy.orm import Session, sessionmaker

from atft.spec.job import TrainSpec
from jobs.db.session import transaction
from jobs.db.tables import ArtifactRow
from jobs.settings import Settings
from jobs.states import JobState, Reason, Wanted
from tests.integration.worker.supervisor_harness import HONEST_PROGRAM, SupervisorHarness

SHA = "ab" * 32
NUM_FEATURES = 5  # of the honest evidence


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> SupervisorHarness:
    return SupervisorHarness(settings, sessions)


def claim(source: UUID, sha256: str) -> tuple[str, str]:
    sizes = TrainSpec(dataset="d").parameter_sizes(NUM_FEATURES)
    tensors = [f"{module}.{number}" for module, own in sizes.items() for number in range(len(own))]
    loaded = {"job_id": str(source), "task": "train", "files": {"best.safetensors": sha256}}
    return "--evidence-override", json.dumps({"init_from": loaded | {"loaded": tensors, "left": []}})


def test_the_initial_weights_are_those_on_record(harness: SupervisorHarness) -> None:
    source = harness.submit()
    harness.want(source, Wanted.CANCEL)  # it must not run
    path = f"jobs/{source}/1/best.safetensors"
    row = {"job_id": source, "attempt": 1, "name": "best.safetensors", "path": path, "size_bytes": 1, "sha256": SHA}
    with transaction(harness.sessions) as session:
        session.execute(insert(ArtifactRow).values(**row, media_type="application/octet-stream"))
    assert harness.run(harness.submit(init_from=source), *HONEST_PROGRAM, *claim(source, SHA)) is JobState.SUCCEEDED
    other = harness.submit(init_from=source)
    assert harness.run(other, *HONEST_PROGRAM, *claim(source, "cd" * 32)) is JobState.FAILED
    assert harness.job(other).reason is Reason.EVIDENCE_MISMATCH
    assert "init_from.files" in (harness.job(other).message or "")


def test_missing_initial_weights_fail_the_job(harness: SupervisorHarness) -> None:
    job_id = harness.submit(init_from=uuid4())
    assert harness.run(job_id, *HONEST_PROGRAM) is JobState.FAILED
    assert harness.job(job_id).reason is Reason.INVALID_PARAMS
    assert "has no weights" in (harness.job(job_id).message or "")
