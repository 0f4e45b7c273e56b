"""The API behind a real uvicorn and real sockets: streams, ranges, huge bodies, shutdown, unavailable servers."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from atft.events import Log, Progress
from jobs.broker.pubsub import CHANNEL, publish, redis_client
from jobs.db.session import transaction
from jobs.db.tables import ArtifactRow
from jobs.record import catalog, history, lifecycle, submission
from jobs.settings import Settings
from jobs.states import JobKind, JobState

Sessions = sessionmaker[Session]


class Server:
    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process, self.url = process, url


@contextlib.contextmanager
def serving(settings: Settings, log: Path | None = None, **changes: str) -> Iterator[Server]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        number = listener.fileno()
        environment = os.environ | {
            "ATFT_DATABASE_URL": settings.database_url.get_secret_value(),
            "ATFT_REDIS_URL": settings.redis_url.get_secret_value(),
            "ATFT_DATA_ROOT": str(settings.data_root),
            "ATFT_RUN_ROOT": str(settings.run_root),
            **changes,
        }
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "--factory",
            "api.app:create_app",
            "--fd",
            str(number),
            "--log-level",
            "warning",
        ]
        if log is not None:
            command[-1] = "debug"
        with contextlib.ExitStack() as files:
            output = None if log is None else files.enter_context(log.open("wb"))
            process = subprocess.Popen(
                command, env=environment, pass_fds=[number], start_new_session=True, stdout=output, stderr=output
            )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        end = time.monotonic() + 180
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/livez", timeout=5).status_code == 200:
                    break
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < end
            time.sleep(0.05)
        yield Server(process, url)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def server(settings: Settings) -> Iterator[Server]:
    with serving(settings) as running:
        yield running


@pytest.fixture
def job_id(sessions: Sessions) -> UUID:
    with transaction(sessions) as session:
        found = submission.submit(
            session, submission.NewJob(kind=JobKind.TRAIN, spec={}, spec_digest="d", queue="cpu")
        ).job.id
        assert lifecycle.claim(session, found, worker="w", host="h", device="cpu", lease_seconds=60)
    return found


def append_logs(sessions: Sessions, job_id: UUID, first: int, last: int) -> None:
    with transaction(sessions) as session:
        history.append(session, job_id, 1, [Log(child_seq=i, message=f"m{i}") for i in range(first, last + 1)])


def settle(sessions: Sessions, job_id: UUID) -> None:
    with transaction(sessions) as session:
        lifecycle.settle(session, job_id, 1, JobState.SUCCEEDED)


def frames(response: httpx.Response, limit: int = 10**6) -> list[dict[str, str]]:
    """Up to `limit` events; comments are left out."""
    found: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            found.append(fields)
            fields = {}
            if len(found) == limit:
                break
        else:
            fields = {}
    return found


def test_g9_stream_goes_on_after_the_last_seen_without_a_gap(
    server: Server, settings: Settings, sessions: Sessions, job_id: UUID
) -> None:
    url, seen, last = f"{server.url}/jobs/{job_id}/events", [], "0"

    def work() -> None:
        for i in range(1, 61):
            append_logs(sessions, job_id, i, i)
            publish(client, job_id)
            time.sleep(0.005)
        settle(sessions, job_id)
        publish(client, job_id)

    client = redis_client(settings)
    worker = threading.Thread(target=work)
    worker.start()
    for cut in (1, 2, 7, 20, 10**6):  # the socket is cut after so many events
        with httpx.stream("GET", url, headers={"Last-Event-ID": last}, timeout=30) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            for frame in frames(response, cut):
                seen.append((frame["event"], int(frame["id"])))
                last = frame["id"]
    worker.join()
    client.close()
    assert [seq for event, seq in seen if event != "end"] == list(range(1, 64))  # queued, running, 60 lines, succeeded
    assert seen[-1] == ("end", 63)
    assert httpx.get(url, headers={"Last-Event-ID": last}).status_code == 204
    assert httpx.get(f"{url}?after=63").status_code == 204
    with httpx.stream("GET", f"{url}?after=61", timeout=30) as response:
        assert [frame["event"] for frame in frames(response)] == ["log", "state", "end"]
    assert httpx.get(url, headers={"Last-Event-ID": "x"}).status_code == 422


def test_stream_is_notified_by_pubsub_and_polls_without_redis(
    server: Server, settings: Settings, sessions: Sessions, job_id: UUID
) -> None:
    with (
        httpx.stream("GET", f"{server.url}/jobs/{job_id}/events", timeout=30) as response,
        redis_client(settings) as client,
    ):
        lines = response.iter_lines()
        next(line for line in lines if line == "id: 2")
        end = time.monotonic() + 30
        while not client.pubsub_numsub(CHANNEL)[0][1]:  # the API has subscribed
            assert time.monotonic() < end
            time.sleep(0.02)
        started = time.monotonic()
        append_logs(sessions, job_id, 1, 1)
        publish(client, job_id)
        next(line for line in lines if line == "id: 3")
        assert time.monotonic() - started < 1.5
        append_logs(sessions, job_id, 2, 2)  # not published
        next(line for line in lines if line == "id: 4")
        with transaction(sessions) as session:
            history.append(session, job_id, 1, [Progress(child_seq=3, phase="train", ratio=0.25)])
        assert next(line for line in lines if line.startswith("event: ")) in ("event: log", "event: progress")


def test_several_jobs_in_one_stream(server: Server, sessions: Sessions, job_id: UUID) -> None:
    with transaction(sessions) as session:
        other = submission.submit(
            session, submission.NewJob(kind=JobKind.TRAIN, spec={}, spec_digest="d", queue="cpu")
        ).job.id
        lifecycle.claim(session, other, worker="w", host="h", device="cpu", lease_seconds=60)
    append_logs(sessions, job_id, 1, 3)
    for one in (job_id, other):
        settle(sessions, one)
    url = f"{server.url}/events?job={job_id}&job={other}"
    with httpx.stream("GET", url, timeout=30) as response:
        found = frames(response)
    ends = [json.loads(frame["data"])["job_id"] for frame in found if frame["event"] == "end"]
    assert sorted(ends) == sorted([str(job_id), str(other)])
    assert len(found) == 3 + 3 + 3 + 2
    assert httpx.get(url, headers={"Last-Event-ID": found[-1]["id"]}).status_code == 204
    with httpx.stream("GET", url, headers={"Last-Event-ID": found[3]["id"]}, timeout=30) as response:
        assert [frame["id"] for frame in frames(response)] == [frame["id"] for frame in found[4:]]
    with httpx.stream("GET", url, params={"job": [str(job_id), str(other)], "after": found[3]["id"]}) as response:
        assert [frame["id"] for frame in frames(response)] == [frame["id"] for frame in found[4:]]
    assert httpx.get(f"{url}&after=newest").status_code == 204  # nothing is new
    assert httpx.get(f"{url}&after={job_id}:newest,{other}:newest").status_code == 204
    assert httpx.get(f"{url}&after={job_id}:x").status_code == 422
    assert httpx.get(f"{server.url}/events").status_code == 422


def test_followed_log_ends_with_the_job(server: Server, sessions: Sessions, job_id: UUID) -> None:
    def work() -> None:
        append_logs(sessions, job_id, 1, 2)
        settle(sessions, job_id)

    threading.Timer(0.5, work).start()
    with httpx.stream("GET", f"{server.url}/jobs/{job_id}/logs?follow=true", timeout=30) as response:
        text = "".join(response.iter_text())
    assert [line.split(" ", 1)[1] for line in text.splitlines()][2:] == [
        "[1] info m1",
        "[1] info m2",
        "[1] state succeeded",
    ]


def test_artifacts_by_range(server: Server, settings: Settings, sessions: Sessions, job_id: UUID) -> None:
    content = bytes(range(256)) * 40
    folder = settings.jobs_root / str(job_id) / "1"
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(content)
    (settings.run_root.parent / "secret").write_text("x")
    with transaction(sessions) as session:
        for name, path in (
            ("plots/model.bin", f"jobs/{job_id}/1/model.bin"),
            ("gone", "jobs/gone"),
            ("out", "../secret"),
        ):
            catalog.add_artifact(
                session,
                job_id,
                1,
                name=name,
                path=path,
                size_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                media_type="application/octet-stream",
            )
    listed = httpx.get(f"{server.url}/jobs/{job_id}/artifacts").json()["items"]
    assert [item["name"] for item in listed] == ["gone", "out", "plots/model.bin"]
    url = server.url + listed[2]["link"]
    whole = httpx.get(url)
    assert (whole.status_code, whole.content, whole.headers["etag"]) == (
        200,
        content,
        f'"{hashlib.sha256(content).hexdigest()}"',
    )
    with transaction(sessions) as session:  # as the scrub does
        session.execute(update(ArtifactRow).values(verified_at=None))
    part = httpx.get(url, headers={"Range": "bytes=100-199"})
    with transaction(sessions) as session:
        verified = session.scalars(select(ArtifactRow.name).where(ArtifactRow.verified_at.is_not(None))).all()
    assert verified == ["plots/model.bin"]  # read whole for the range: the next request need not
    assert (part.status_code, part.content, part.headers["content-range"]) == (
        206,
        content[100:200],
        f"bytes 100-199/{len(content)}",
    )
    assert httpx.get(url, headers={"Range": "bytes=-16"}).content == content[-16:]
    assert httpx.get(url, headers={"Range": "bytes=100-", "If-Range": '"other"'}).status_code == 200
    assert httpx.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    head = httpx.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))
    for outside in ("bytes=99999-", "bytes=-0"):
        response = httpx.get(url, headers={"Range": outside})
        assert (response.status_code, response.json()["code"]) == (416, "range_not_satisfiable"), outside
        assert response.headers["content-range"] == f"bytes */{len(content)}"
    for unknown in ("bytes=x", "pages=1-2", "bytes=9-3", "bytes=-", "bytes="):
        assert httpx.get(url, headers={"Range": unknown}).status_code == 200, unknown
    for name in ("gone", "out", "nothing", "..%2f..%2fsecret", "%2e%2e/secret"):
        response = httpx.get(f"{server.url}/jobs/{job_id}/artifacts/{name}")
        assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json"), name
    (folder / "model.bin").write_bytes(content[:-1] + b"x")
    for headers in ({}, {"Range": "bytes=0-9"}, {"If-None-Match": whole.headers["etag"]}):
        response = httpx.get(url, headers=headers)
        assert (response.status_code, response.json()["code"]) == (410, "artifact_damaged")
        assert "etag" not in response.headers


def test_body_of_100_mb_is_refused_without_being_kept(server: Server) -> None:
    before = psutil.Process(server.process.pid).memory_info().rss
    piece = b"x" * 1_000_000

    def body() -> Iterator[bytes]:
        for _ in range(100):
            yield piece

    for headers in ({"Content-Length": "100000000"}, {}):  # announced, and chunked
        response = httpx.post(
            f"{server.url}/jobs/train",
            content=body(),
            headers={"Content-Type": "application/json", **headers},
            timeout=60,
        )
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert psutil.Process(server.process.pid).memory_info().rss - before < 30_000_000
    assert httpx.get(f"{server.url}/livez").status_code == 200


def test_sigterm_ends_open_streams_at_once(server: Server, job_id: UUID) -> None:
    with httpx.stream("GET", f"{server.url}/jobs/{job_id}/events", timeout=30) as response:
        lines = response.iter_lines()
        next(line for line in lines if line == "id: 2")
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        list(lines)
        server.process.wait(10)
    assert time.monotonic() - started < 5


def test_hung_database_is_503_in_bounded_time(settings: Settings) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # accepts connections and never responds
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/x"
        with serving(settings, ATFT_DATABASE_URL=url) as server:
            started = time.monotonic()
            response = httpx.get(f"{server.url}/jobs", timeout=30)
            assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
            assert response.headers["retry-after"]
            assert httpx.get(f"{server.url}/readyz", timeout=30).status_code == 503
            assert time.monotonic() - started < 20


@pytest.mark.parametrize("broker", ["refused", "hung"])
def test_submit_is_accepted_in_bounded_time_without_a_broker(settings: Settings, broker: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if broker == "hung":
            silent.listen()
        with serving(settings, ATFT_REDIS_URL=f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as server:
            started = time.monotonic()
            response = httpx.post(f"{server.url}/datasets", json={"name": "p", "planted": {}}, timeout=30)
            assert response.status_code == 202
            assert time.monotonic() - started < 8
            job: dict[str, Any] = httpx.get(server.url + response.headers["location"]).json()
            assert job["state"] == "queued"


def test_pain_45_it_refuses_to_serve_beyond_loopback_without_keys(settings: Settings, tmp_path: Path) -> None:
    environment = os.environ | {
        "ATFT_DATABASE_URL": settings.database_url.get_secret_value(),
        "ATFT_REDIS_URL": "redis://127.0.0.1:1/0",
        "ATFT_BIND": "0.0.0.0",
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app", "--port", "0"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False, cwd=Path.cwd()
    )
    assert done.returncode != 0
    assert "no API key is configured" in done.stderr
