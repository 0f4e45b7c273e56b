"""G7: API and workers are restarted one after the other while clients send requests; no request and no job fails."""

import socket
import threading
from collections import Counter
from urllib.parse import urlsplit

import httpx
import pytest

from client.sdk.sync import Client
from tests.acceptance.conftest import TRAIN, Up, wait_for

pytestmark = pytest.mark.usefixtures("panel")


WAITS = TRAIN | {"resources": {"queue": "gpu"}}  # no worker serves this queue


class RequestLoop(threading.Thread):
    """A thread that sends one request after another, each on a new connection, without retries."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._stopped = threading.Event()
        self.statuses: Counter[str] = Counter()
        self.accepted: list[str] = []

    def run(self) -> None:
        while not self._stopped.wait(0.05):
            self._send("GET", "/jobs?limit=1")
            self._send("POST", "/jobs/train", WAITS)

    def _send(self, method: str, path: str, body: object = None) -> None:
        headers = {"Connection": "close"}
        try:
            response = httpx.request(method, self._url + path, json=body, headers=headers, timeout=60, trust_env=False)
        except httpx.HTTPError as error:
            self.statuses[repr(error)] += 1
            return
        self.statuses[str(response.status_code)] += 1
        if response.status_code == httpx.codes.ACCEPTED:
            self.accepted.append(response.json()["id"])

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def test_g7_a_stopping_api_completes_open_requests(up: Up) -> None:
    where = urlsplit(up.url)
    [old, *_] = up.find("uvicorn")
    log = up.var / "log" / "api.log"
    with socket.create_connection((where.hostname, where.port), timeout=60) as client:
        port = client.getsockname()[1]
        wait_for("accepting", lambda: any(found.raddr and found.raddr.port == port for found in old.net_connections()))
        before = log.stat().st_size
        old.terminate()
        wait_for("the API is stopping", lambda: b"Shutting down" in log.read_bytes()[before:])
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        response = b""
        while piece := client.recv(4096):
            response += piece
    assert response.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in response.lower()
    wait_for("another API", lambda: (new := up.find("uvicorn")) and new[0] != old, 120)


def test_g7_a_rolling_restart_fails_no_request_and_no_job(service: Client, up: Up) -> None:
    trainer = TRAIN["trainer"] | {"max_epochs": 8}  # type: ignore[operator]
    job = service.submit("train", TRAIN | {"trainer": trainer})
    wait_for("training", lambda: "val/rank_ic" in (service.job(job.id).latest or {}), 180)
    loops = [RequestLoop(up.url) for _ in range(2)]
    for one in loops:
        one.start()
    for parts in (("uvicorn",), ("celery", "cpu-0@")):
        [old, *_] = up.find(*parts)
        old.terminate()
        wait_for(f"another {parts[0]}", lambda old=old, parts=parts: (new := up.find(*parts)) and new[0] != old, 120)
        sent = [sum(loop.statuses.values()) for loop in loops]
        wait_for(
            "ten more requests of each client",
            lambda sent=sent: all(sum(loop.statuses.values()) >= n + 10 for loop, n in zip(loops, sent, strict=True)),
        )
    wait_for("a second attempt", lambda: service.job(job.id).attempt == 2, 120)
    for one in loops:
        one.stop()
    statuses = sum((one.statuses for one in loops), Counter())
    assert set(statuses) == {"200", "202"}, statuses
    assert statuses["202"] > 20
    accepted = {job_id for one in loops for job_id in one.accepted}
    assert len(accepted) == statuses["202"]
    assert {service.cancel(job_id).state for job_id in accepted} == {"cancelled"}
    done = service.wait(job.id, 300)
    assert (done.state, done.attempt) == ("succeeded", 2)
    reasons = [event.body.get("reason") for event in service.events(job.id) if event.kind == "state"]
    assert "drained" in reasons
    assert "worker_lost" not in reasons
