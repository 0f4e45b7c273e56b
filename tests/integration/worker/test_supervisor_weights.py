"""A job that begins with another's weights: the program is shown where they lie, and must have read those on record."""

import json
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert
from sqlalchemy.orm import Session, sessionmaker

from atft.spec.job import TrainSpec
from jobs.db.session import transaction
from jobs.db.tables import ArtifactRow
from jobs.record import submission
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason, Wanted
from tests.integration.worker.supervision import FINGERPRINT, HONEST, Bench

SHA = "ab" * 32


@pytest.fixture
def bench(settings: Settings, sessions: sessionmaker[Session]) -> Bench:
    return Bench(settings, sessions)


def begin_with(bench: Bench, source: UUID) -> UUID:
    spec = TrainSpec(dataset="d", init_from=str(source))
    with transaction(bench.sessions) as session:
        return submission.submit(
            session, kind=JobKind.TRAIN, spec=spec.model_dump(mode="json"), spec_digest=spec.digest(), queue="cpu",
            dataset="d", dataset_fingerprint=FINGERPRINT,
        ).job.id  # fmt: skip


def claim(source: UUID, sha256: str) -> tuple[str, str]:
    loaded = [f"{module}.weight" for module in ("selection", "fan", "temporal", "graph")]
    files = {"best.safetensors": sha256}
    return "--lie", json.dumps({"init_from": {"job_id": str(source), "files": files, "loaded": loaded, "left": []}})


def test_weights_are_read_where_the_record_says_and_held_against_it(bench: Bench) -> None:
    source = bench.submit()
    bench.want(source, Wanted.CANCEL)  # it is not to run
    path = f"jobs/{source}/1/best.safetensors"
    row = {"job_id": source, "attempt": 1, "name": "best.safetensors", "path": path, "size_bytes": 1, "sha256": SHA}
    with transaction(bench.sessions) as session:
        session.execute(insert(ArtifactRow).values(**row, media_type="application/octet-stream"))
    assert bench.run(begin_with(bench, source), *HONEST, *claim(source, SHA)) is JobState.SUCCEEDED
    other = begin_with(bench, source)
    assert bench.run(other, *HONEST, *claim(source, "cd" * 32)) is JobState.FAILED
    assert bench.job(other).reason is Reason.EVIDENCE_MISMATCH
    assert "weights of init_from" in (bench.job(other).message or "")


def test_weights_that_are_gone_end_the_job(bench: Bench) -> None:
    job_id = begin_with(bench, uuid4())
    assert bench.run(job_id, *HONEST) is JobState.FAILED
    assert bench.job(job_id).reason is Reason.INVALID_PARAMS
    assert "has no weights" in (bench.job(job_id).message or "")
