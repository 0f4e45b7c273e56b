"""Helpers of the API's tests: an application in this process, a dataset without files, a job with every event."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pyarrow as pa
from sqlalchemy import Engine, event, select
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from atft.checksums import sha256_of
from atft.events import AnyEvent, DailySeries, Evidence, Log, Metrics, Progress
from jobs.db.session import transaction
from jobs.db.tables import Dataset
from jobs.record import catalog, history, lifecycle, submission
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason

Sessions = sessionmaker[Session]
DAYS = [date(2020, 1, 1) + timedelta(days=n) for n in range(200)]
SPEC = {
    "dataset": "small",
    "name": "first",
    "tags": {"desk": "tokyo"},
    "data": {"window": 10, "horizons": [1, 5], "min_names": 5},
    "split": {"val_days": 30, "test_days": 30, "embargo_days": 6},
    "model": {"hidden_size": 8, "attention_heads": 2, "gat_heads": 2},
}


class serving:  # noqa: N801 - reads as a verb
    """`async with serving(settings) as client`: the application with its lifespan, on this machine's loopback."""

    def __init__(self, settings: Settings, **headers: str) -> None:
        self.app = create_app(settings)
        self.headers = headers

    async def __aenter__(self) -> httpx.AsyncClient:
        self.life = self.app.router.lifespan_context(self.app)
        await self.life.__aenter__()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=self.headers)
        return self.client

    async def __aexit__(self, *error: Any) -> None:
        await self.client.aclose()
        await self.life.__aexit__(None, None, None)


@contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL statements that this process executes meanwhile."""
    found: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found.append(statement)

    event.listen(Engine, "before_cursor_execute", record)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", record)


def write_days(settings: Settings, sessions: Sessions) -> Path:
    """Write the registered dataset's days.arrow, with its hash in the row."""
    path = settings.caches_root / "fp1" / "days.arrow"
    path.parent.mkdir(parents=True)
    batch = pa.record_batch({"date": pa.array(DAYS, pa.date32())})
    with pa.ipc.new_file(path, batch.schema) as file:
        file.write_batch(batch)
    with transaction(sessions) as session:
        row = session.scalars(select(Dataset).where(Dataset.fingerprint == "fp1")).one()
        row.manifest = row.manifest | {"files": {path.name: {"sha256": sha256_of(path)}}}
    return path


def register(sessions: Sessions) -> Dataset:
    """A registered dataset of 200 days, 20 stocks, horizons 1 and 5."""
    manifest = {
        "feature_names": ["f1", "f2", "f3"],
        "market_names": ["vix"],
        "horizons": [1, 5],
        "num_days": 200,
        "num_codes": 20,
        "num_rows": 4000,
        "calendar": {"first_day": "2020-01-01", "last_day": "2020-10-06", "num_days": 200},
    }
    with transaction(sessions) as session:
        job = submission.submit(
            session, submission.NewJob(kind=JobKind.DATASET, spec={}, spec_digest="d", queue="cpu", dataset="small")
        ).job
        claimed = lifecycle.claim(session, job.id, worker="w", host="h", device="cpu", lease_seconds=60)
        assert claimed is not None
        profile = {"names_per_day": {"median": 20.0}}
        found = catalog.register_dataset(
            session,
            job,
            catalog.NewDataset(
                name="small",
                fingerprint="fp1",
                spec={"name": "small"},
                manifest=manifest,
                profile=profile,
                leak_report={},
                path="caches/fp1",
                size_bytes=10,
            ),
        )
        lifecycle.settle(session, job.id, 1, JobState.SUCCEEDED)
    return found


def problem(response: httpx.Response, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert set(body) == {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}
    assert (body["status"], body["code"]) == (status, code), body
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    if pointer is not None:
        assert pointer in [error["pointer"] for error in body["errors"]], body
    return body


def run(sessions: Sessions, job_id: UUID, to: JobState | None = JobState.SUCCEEDED) -> None:
    """One attempt that emits an event of every kind."""
    values = {"val/rank_ic": 0.1, "val/rank_ic@5d": None}
    daily = [DailySeries(name="rank_ic", split="val", horizon=5, days=["2020-05-01"], values=[0.1])]
    emitted: list[AnyEvent] = [
        Log(child_seq=1, message="hello"),
        Metrics(child_seq=2, step=1, values=values, best=True, daily=daily),
        Metrics(child_seq=3, step=2, values={"val/rank_ic": 0.2}),
        Metrics(child_seq=4, step=0, values={"test/rank_ic@5d": 0.3}, source="ridge"),
        Progress(child_seq=5, phase="train", epoch=2, epochs=3, ratio=0.6, samples_per_second=100.0),
        Evidence(child_seq=6, body={"micro_batch_days": 4}),
    ]
    with transaction(sessions) as session:
        claimed = lifecycle.claim(session, job_id, worker="w", host="h", device="cpu", lease_seconds=60)
        assert claimed is not None
        history.append(session, job_id, claimed.attempt, emitted)
        if to is not None:
            lifecycle.settle(
                session,
                job_id,
                claimed.attempt,
                to,
                lifecycle.AttemptEnd(reason=Reason.USER if to is JobState.CANCELLED else None),
            )


async def submit(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    response = await client.post("/jobs/train", json=SPEC | changes)
    assert response.status_code == 202, response.text
    body: dict[str, Any] = response.json()
    return body
