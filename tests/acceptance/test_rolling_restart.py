"""G7: API and workers are restarted one after the other while clients ask, and no request fails."""

import threading
import time
from collections import Counter

import httpx
import pytest

from client.sdk import Client
from tests.acceptance.conftest import TRAIN, Up, wait_for

pytestmark = pytest.mark.usefixtures("panel")


class Asking(threading.Thread):
    """One request after another, each on a connection of its own, none tried again."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._over = threading.Event()
        self.answers: Counter[str] = Counter()

    def run(self) -> None:
        headers = {"Connection": "close"}
        while not self._over.wait(0.05):
            try:
                answer = httpx.get(f"{self._url}/jobs?limit=1", headers=headers, timeout=60, trust_env=False)
                self.answers[str(answer.status_code)] += 1
            except httpx.HTTPError as error:
                self.answers[repr(error)] += 1

    def stop(self) -> Counter[str]:
        self._over.set()
        self.join()
        return self.answers


def test_g7_a_rolling_restart_fails_no_request_and_no_job(service: Client, up: Up) -> None:
    trainer = TRAIN["trainer"] | {"max_epochs": 8}  # type: ignore[operator]
    job = service.submit("train", TRAIN | {"trainer": trainer})
    wait_for("training", lambda: "val/rank_ic" in (service.job(job.id).latest or {}), 90)
    asking = Asking(up.url)
    asking.start()
    for words in (("uvicorn",), ("celery", "cpu-0@")):
        [old, *_] = up.find(*words)
        old.terminate()
        wait_for(f"another {words[0]}", lambda old=old, words=words: (new := up.find(*words)) and new[0] != old, 60)
        time.sleep(1.0)
    wait_for("a second attempt", lambda: service.job(job.id).attempt == 2, 120)
    answers = asking.stop()
    assert set(answers) == {"200"}, answers
    assert answers["200"] > 20
    done = service.wait(job.id, 300)
    assert (done.state, done.attempt) == ("succeeded", 2)
    reasons = [event.body.get("reason") for event in service.events(job.id) if event.kind == "state"]
    assert "drained" in reasons
    assert "worker_lost" not in reasons
