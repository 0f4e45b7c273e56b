"""Registering datasets by upload, by path and planted: rejected requests, and the files left on disk."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from api.datasets import inspection
from api.datasets import uploads as uploads_module
from api.http.database import Database
from api.http.errors import Unavailable
from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.record import catalog, history, lifecycle, queries
from jobs.settings import Settings
from jobs.states import JobState

pytestmark = pytest.mark.anyio
Sessions = sessionmaker[Session]
CSV = b"date,code,close\n2020-01-01,A,1.0\n"


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        yield client


def row(sessions: Sessions, response: httpx.Response) -> Job:
    assert response.status_code == 202, response.text
    assert response.headers["location"] == f"/jobs/{response.json()['id']}"
    with transaction(sessions) as session:
        return queries.get(session, UUID(response.json()["id"]))


def refused(response: httpx.Response, status: int, code: str, pointer: str | None = None) -> str:
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert response.headers["content-type"] == "application/problem+json"
    assert pointer is None or pointer in [error["pointer"] for error in body["errors"]], body
    return str(body["detail"])


def form(spec: object, **files: tuple[str, bytes]) -> dict[str, Any]:
    return {"files": {"spec": (None, json.dumps(spec), "application/json"), **files}}


def uploads(settings: Settings) -> list[str]:
    root = settings.uploads_root
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) if root.is_dir() else []


async def test_planted(client: httpx.AsyncClient, sessions: Sessions) -> None:
    job = row(
        sessions, await client.post("/datasets", json={"name": "p", "planted": {"num_codes": 20, "num_days": 100}})
    )
    assert (job.kind, job.dataset, job.queue, job.params) == ("dataset", "p", "cpu", {"files": {}})
    assert job.spec["planted"]["num_codes"] == 20


async def test_path_under_the_data_root(client: httpx.AsyncClient, settings: Settings, sessions: Sessions) -> None:
    (settings.data_root / "deep").mkdir()
    (settings.data_root / "deep" / "panel.csv").write_bytes(CSV)
    (settings.data_root / "members.csv").write_bytes(CSV)
    spec = {"name": "p", "path": "deep/panel.csv", "universe": {"file": "members.csv"}}
    job = row(sessions, await client.post("/datasets", json=spec))
    assert job.params == {"files": {"panel": "data:deep/panel.csv", "universe": "data:members.csv"}}
    assert job.spec["path"] == "deep/panel.csv"
    job = row(sessions, await client.post("/datasets", json={"name": "p", "path": "deep"}))
    assert job.params == {"files": {"panel": "data:deep"}}
    body = {"name": "p", "path": "deep/panel.csv", "universe": {"file": "deep"}}
    refused(await client.post("/datasets", json=body), 422, "file_not_found", "/universe/file")


async def test_paths_outside_the_data_root(client: httpx.AsyncClient, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_bytes(CSV)
    (settings.data_root / "panel.csv").write_bytes(CSV)
    (settings.data_root / "link.csv").symlink_to(tmp_path / "secret.csv")
    for path in ("../secret.csv", "/etc/passwd", str(tmp_path / "secret.csv"), "link.csv", "a/../../secret.csv"):
        refused(
            await client.post("/datasets", json={"name": "p", "path": path}), 422, "path_outside_data_root", "/path"
        )
    body = {"name": "p", "path": "panel.csv", "market": {"file": "../secret.csv"}}
    refused(await client.post("/datasets", json=body), 422, "path_outside_data_root", "/market/file")
    refused(await client.post("/datasets", json={"name": "p", "path": "missing.csv"}), 422, "file_not_found", "/path")
    (settings.data_root / "parts").mkdir()
    refused(await client.post("/datasets", json={"name": "p", "path": "parts"}), 422, "file_not_found", "/path")
    (settings.data_root / "parts" / "link.csv").symlink_to(tmp_path / "secret.csv")
    refused(await client.post("/datasets", json={"name": "p", "path": "parts"}), 422, "path_outside_data_root", "/path")


async def test_upload_is_on_disk_and_named_by_its_job(
    client: httpx.AsyncClient, settings: Settings, sessions: Sessions
) -> None:
    spec = {"name": "p", "universe": {"file": "members"}, "market": {"file": "market"}}
    files = {"file": ("panel.csv", CSV), "members": ("m.parquet", b"members"), "market": ("x.arrow", b"market")}
    job = row(sessions, await client.post("/datasets", **form(spec, **files)))
    assert job.params is not None
    sources = job.params["sources"]
    assert {role: sources[role]["name"] for role in sources} == {
        "panel": "panel.csv",
        "universe": "m.parquet",
        "market": "x.arrow",
    }
    assert sources["panel"]["sha256"] == hashlib.sha256(CSV).hexdigest()
    found = {role: reference.removeprefix("upload:") for role, reference in job.params["files"].items()}
    assert {role: (settings.uploads_root / name).read_bytes() for role, name in found.items()} == {
        "panel": CSV,
        "universe": b"members",
        "market": b"market",
    }
    assert uploads(settings) == sorted(found.values())


async def test_repeated_upload_is_one_job_and_one_copy(
    client: httpx.AsyncClient, settings: Settings, sessions: Sessions
) -> None:
    headers = {"Idempotency-Key": "k"}
    first = row(sessions, await client.post("/datasets", **form({"name": "p"}, file=("a.csv", CSV)), headers=headers))
    again = row(sessions, await client.post("/datasets", **form({"name": "p"}, file=("a.csv", CSV)), headers=headers))
    assert first.id == again.id
    assert len(uploads(settings)) == 1
    other = await client.post("/datasets", **form({"name": "p"}, file=("a.csv", CSV + b"x")), headers=headers)
    refused(other, 422, "idempotency_mismatch")
    assert len(uploads(settings)) == 1


async def test_an_upload_is_kept_when_the_result_of_the_commit_is_unknown(
    client: httpx.AsyncClient, settings: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after the COMMIT was sent: the row exists, the job runs, and the same key returns it."""
    write = Database.write

    async def lose(self: Database, *args: Any) -> None:
        await write(self, *args)
        raise Unavailable

    headers = {"Idempotency-Key": "k"}
    monkeypatch.setattr(Database, "write", lose)
    lost = await client.post("/datasets", **form({"name": "p"}, file=("a.csv", CSV)), headers=headers)
    assert "same Idempotency-Key" in refused(lost, 503, "database_unavailable")
    assert len(uploads(settings)) == 1
    monkeypatch.undo()
    job = row(sessions, await client.post("/datasets", **form({"name": "p"}, file=("a.csv", CSV)), headers=headers))
    assert job.params is not None
    assert uploads(settings) == [job.params["files"]["panel"].removeprefix("upload:")]


async def test_a_repeated_submit_returns_its_job_although_the_file_was_deleted(
    client: httpx.AsyncClient, settings: Settings, sessions: Sessions
) -> None:
    file = settings.data_root / "gone.csv"
    file.write_bytes(CSV)
    spec, headers = {"name": "p", "path": "gone.csv"}, {"Idempotency-Key": "k"}
    first = row(sessions, await client.post("/datasets", json=spec, headers=headers))
    file.unlink()
    assert row(sessions, await client.post("/datasets", json=spec, headers=headers)).id == first.id
    assert (await client.post("/datasets", json=spec)).status_code == 422
    assert (await client.post("/datasets?dry_run=true", json=spec, headers=headers)).status_code == 422


async def test_refused_uploads_leave_nothing(client: httpx.AsyncClient, settings: Settings) -> None:
    file = ("a.csv", CSV)
    for request, status, code, pointer in (
        (form({"name": "p", "x": 1}, file=file), 422, "invalid_request", "/x"),
        (form({"name": "../p"}, file=file), 422, "invalid_request", "/name"),
        (form({"name": "p", "path": "a.csv"}, file=file), 422, "invalid_request", "/path"),
        (form({"name": "p"}), 422, "missing_part", None),
        (form({"name": "p"}, file=("a.csv", b"")), 422, "empty_file", None),
        (form({"name": "p"}, file=("a.exe", CSV)), 422, "unsupported_file", None),
        (form({"name": "p", "universe": {"file": "u"}}, file=file), 422, "missing_part", None),
        (form({"name": "p"}, file=file, extra=file), 422, "unknown_part", None),
        ({"files": {"file": file}}, 422, "missing_part", None),
        ({"files": {"spec": (None, b"{"), "file": file}}, 400, "malformed_json", None),
    ):
        refused(await client.post("/datasets", **request), status, code, pointer)
    assert uploads(settings) == []
    refused(
        await client.post("/datasets", content=CSV, headers={"Content-Type": "text/csv"}), 415, "unsupported_media_type"
    )
    refused(await client.post("/datasets", json={"name": "p"}), 422, "invalid_request", "/path")
    refused(await client.post("/datasets", json=[1]), 422, "invalid_request")
    body = {"name": "p", "path": "a", "planted": {}}
    refused(await client.post("/datasets", json=body), 422, "invalid_request", "/planted")


async def test_upload_over_its_limit_is_413(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"max_upload_bytes": 5000}))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    async def pieces() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 100

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        response = await client.post(
            "/datasets", content=pieces(), headers={"Content-Type": "multipart/form-data; boundary=b"}
        )
    refused(response, 413, "body_too_large")
    assert list(settings.uploads_root.iterdir()) == []


async def test_a_full_disk_is_507_and_leaves_nothing(
    client: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads_module, "KEEP_FREE_BYTES", 1 << 60)
    refused(await client.post("/datasets", **form({"name": "p"}, file=("a.csv", CSV))), 507, "disk_full")
    assert uploads(settings) == []


async def test_plan_of_a_dataset(client: httpx.AsyncClient, settings: Settings, sessions: Sessions) -> None:
    response = await client.post(
        "/datasets?dry_run=true", json={"name": "p", "horizons": [1], "planted": {"num_codes": 12, "num_days": 80}}
    )
    assert response.status_code == 200, response.text
    assert response.json()["inspection"]["num_codes"] == 12
    assert response.json()["registered"] == []
    fingerprint = response.json()["inspection"]["fingerprint"]
    await register(client, sessions, "same", fingerprint)
    again = await client.post(
        "/datasets?dry_run=true", json={"name": "q", "horizons": [1], "planted": {"num_codes": 12, "num_days": 80}}
    )
    assert again.json()["registered"] == ["same@1"]
    without_dates = b"code,close\nA,1.0\n"
    detail = refused(
        await client.post("/datasets?dry_run=true", **form({"name": "p"}, file=("a.csv", without_dates))),
        422,
        "cannot_build",
    )
    assert "date" in detail
    assert str(settings.run_root) not in detail
    negative = b"date,code,close\n2020-01-01,A,1.0\n2020-01-02,A,-1.0\n2020-01-03,A,1.0\n"
    detail = refused(
        await client.post("/datasets?dry_run=true", **form({"name": "p"}, file=("a.csv", negative))),
        422,
        "cannot_build",
    )
    assert "-1" in detail or "negative" in detail
    assert uploads(settings) == []
    assert len((await client.get("/jobs")).json()["items"]) == 1  # of the version that was registered above


async def test_a_plan_beyond_the_memory_limit_is_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "LIMIT_BYTES", 300 << 20)
    planted = {"num_codes": 1000, "num_days": 2000, "num_features": 16}
    response = await client.post("/datasets?dry_run=true", json={"name": "p", "planted": planted})
    assert "300 MiB" in refused(response, 422, "inspection_too_large")


async def register(client: httpx.AsyncClient, sessions: Sessions, name: str, fingerprint: str) -> Job:
    """A version of a running build."""
    job = row(sessions, await client.post("/datasets", json={"name": name, "planted": {}}))
    manifest = {
        "feature_names": ["f"],
        "feature_formulas": {"f": "c / c[1] - 1"},
        "market_names": [],
        "horizons": [1],
        "num_days": 9,
        "num_codes": 2,
        "num_rows": 18,
        "source_sha256": "abc",
        "calendar": {"first_day": "2020-01-01", "last_day": "2020-01-09"},
    }
    with transaction(sessions) as session:
        claimed = lifecycle.claim(session, job.id, worker="w", host="h", device="cpu", lease_seconds=60)
        assert claimed is not None
        history.set_evidence(session, job.id, 1, {"versions": {"atft": "9.9"}})
        catalog.register_dataset(
            session,
            claimed,
            catalog.NewDataset(
                name=name,
                fingerprint=fingerprint,
                spec=job.spec,
                manifest=manifest,
                profile={"x": 1},
                leak_report={},
                path=f"caches/{fingerprint}",
                size_bytes=7,
            ),
        )
    return job


async def test_list_get_and_delete_a_dataset(client: httpx.AsyncClient, settings: Settings, sessions: Sessions) -> None:
    job = await register(client, sessions, "a", "fpa")
    with transaction(sessions) as session:
        lifecycle.settle(session, job.id, 1, JobState.SUCCEEDED)
    await register(client, sessions, "b", "fpb")
    cache = settings.caches_root / "fpa"
    cache.mkdir(parents=True)
    assert [item["name"] for item in (await client.get("/datasets")).json()["items"]] == ["b", "a"]
    first = await client.get("/datasets?limit=1")
    assert [item["name"] for item in (await client.get(first.links["next"]["url"])).json()["items"]] == ["a"]
    one = (await client.get("/datasets/a")).json()
    assert (one["columns"], one["days"], one["profile"]) == (["f"], ["2020-01-01", "2020-01-09"], {"x": 1})
    assert one["formulas"] == {"f": "c / c[1] - 1"}
    [version] = one["versions"]
    assert (version["num_jobs"], version["num_unfinished_jobs"], version["job_id"]) == (0, 0, str(job.id))
    assert version["origin"] | {"asked_at": None} == {
        "kind": "planted",
        "files": [],
        "source_sha256": "abc",
        "by": "anonymous",
        "asked_at": None,
        "versions": {"atft": "9.9"},
    }
    assert [item["id"] for item in (await client.get(version["jobs"])).json()["items"]] == [str(job.id)]
    refused(await client.delete("/datasets/b"), 409, "dataset_busy")
    assert (await client.delete("/datasets/a")).status_code == 204
    assert not cache.exists()
    assert "was deleted" in refused(await client.get("/datasets/a"), 404, "dataset_not_found")
    refused(await client.delete("/datasets/a"), 404, "dataset_not_found")
    assert (await client.get(f"/jobs/{job.id}")).json()["dataset_fingerprint"] == "fpa"


async def test_one_version_is_deleted(client: httpx.AsyncClient, settings: Settings, sessions: Sessions) -> None:
    for fingerprint in ("fp1", "fp2", "fp3"):
        job = await register(client, sessions, "a", fingerprint)
        (settings.caches_root / fingerprint).mkdir(parents=True)
        with transaction(sessions) as session:
            lifecycle.settle(session, job.id, 1, JobState.SUCCEEDED)
    assert (await client.get("/datasets/a@2")).json()["fingerprint"] == "fp2"
    assert (await client.delete("/datasets/a@2")).status_code == 204
    assert sorted(path.name for path in settings.caches_root.iterdir()) == ["fp1", "fp3"]
    one = (await client.get("/datasets/a")).json()
    assert (one["version"], [version["version"] for version in one["versions"]]) == (3, [3, 1])
    for ref in ("a@2", "a@9", "a@x"):
        refused(await client.delete(f"/datasets/{ref}"), 404, "dataset_not_found")
        refused(await client.get(f"/datasets/{ref}"), 404, "dataset_not_found")
