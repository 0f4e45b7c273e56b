"""Mixed work for a service, from a seed: trainings, datasets, studies, cancels, pauses, retries, reruns, and viewers
whose sockets are cut. Every job that the service has accepted is remembered.
"""

import random
import threading
import time
import uuid
from collections import Counter
from typing import Any

import httpx

from client.sdk.models import TERMINAL, Job
from client.sdk.sync import Client, Refused, ServiceError
from tests.chaos.service import Service

Json = dict[str, Any]
PANEL: Json = {"num_codes": 24, "num_days": 180, "num_features": 5, "signal": 0.3, "seed": 1}
TRAIN: Json = {
    "dataset": "panel",
    "data": {"window": 8, "horizons": [1, 5], "min_names": 5},
    "split": {"val_days": 20, "test_days": 20, "embargo_days": 6},
    "model": {"hidden_size": 8, "attention_heads": 2, "gat_heads": 2, "gat_layers": 1, "fan_top_k": 2},
    "graph": {"correlation_window": 20, "half_life": 10, "neighbours": 3},
    "optimizer": {"name": "adabelief", "lr": 1e-3},
    "trainer": {"max_epochs": 12, "batch_size": 80, "checkpoint_every_seconds": 1, "early_stopping": None},
    "resources": {"max_attempts": 20},
    "baselines": False,
}
STUDY: Json = {
    "space": {"optimizer.lr": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True}},
    "n_trials": 2,
    "parallelism": 2,
    "sampler": {"name": "random", "seed": 0},
    "pruner": {"name": "none"},
}
KINDS = ("train", "dataset", "hpo", "cancel", "pause")
WEIGHTS = (8, 3, 1, 2, 3)
SEEDS = 3  # few different trainings, many of each: equal ones must have equal metrics


class Workload(threading.Thread):
    """A thread that keeps `width` jobs going until `until`, then lets them end."""

    def __init__(self, service: Service, seed: int, *, until: float, width: int = 3) -> None:
        super().__init__(name="workload", daemon=True)
        self._service = service
        self._random = random.Random(seed)
        self._until = until
        self._width = width
        self.accepted: dict[str, str] = {}  # id -> kind of work
        self.counts: Counter[str] = Counter()
        self.refused: list[str] = []
        self.viewers: list[Viewer] = []
        self._planned_requests: dict[str, list[tuple[float, str]]] = {}  # id -> (time, action) still to be sent
        self._followed: set[str] = set()

    def run(self) -> None:
        with self._service.client() as client:
            while time.monotonic() < self._until or self._planned_requests:
                try:
                    going = self._going(client)
                    self._request_planned(client, going)
                    if len(going) < self._width and time.monotonic() < self._until:
                        self._submit(client)
                except ServiceError as error:
                    self.counts[f"answers: {type(error).__name__}"] += 1
                    time.sleep(0.3)
                time.sleep(0.2)

    def _going(self, client: Client) -> list[Job]:
        jobs = [client.job(job_id) for job_id in self.accepted if job_id not in self._followed]
        for job in jobs:
            if job.done:
                self._followed.add(job.id)
                self._follow_up(client, job)
        return [job for job in jobs if not job.done]

    def _follow_up(self, client: Client, job: Job) -> None:
        """Retry or rerun some of the finished trainings."""
        if time.monotonic() > self._until or job.kind != "train":
            return
        if job.state in ("failed", "cancelled") and self._random.random() < 0.5:
            self._accept(lambda key: client.retry(job.id, idempotency_key=key), "retry")
        elif job.state == "succeeded" and self._random.random() < 0.15:
            self._accept(lambda key: client.rerun(job.id, idempotency_key=key), "rerun")

    def _request_planned(self, client: Client, going: list[Job]) -> None:
        """Send the planned actions that are due."""
        alive = {job.id for job in going}
        for job_id, planned in list(self._planned_requests.items()):
            if job_id not in alive or not planned:
                del self._planned_requests[job_id]
                continue
            at, name = planned[0]
            if time.monotonic() < at:
                continue
            try:
                {"cancel": client.cancel, "pause": client.pause, "resume": client.resume}[name](job_id)
                self.counts[name] += 1
            except Refused as refused:  # it has ended meanwhile
                if refused.status != 409:
                    self.refused.append(f"{name}: {refused}")
            planned.pop(0)

    def _submit(self, client: Client) -> None:
        [kind] = self._random.choices(KINDS, WEIGHTS)
        now = time.monotonic()
        spec: Json
        if kind == "dataset":
            name = f"p{self._random.randrange(10)}"
            spec = {"name": name, "horizons": [1, 5], "planted": PANEL | {"seed": self._random.randrange(4)}}
            self._accept(lambda key: client.add_dataset(spec, idempotency_key=key), kind)
            return
        train = TRAIN | {"seed": self._random.randrange(SEEDS)}
        if kind == "hpo":
            trainer = TRAIN["trainer"] | {"max_epochs": 2}
            spec = STUDY | {"base": train | {"trainer": trainer}}
            self._accept(lambda key: client.hpo(spec, idempotency_key=key), kind)
            return
        job_id = self._accept(lambda key: client.submit("train", train, idempotency_key=key), kind)
        if kind == "cancel":
            self._planned_requests[job_id] = [(now + self._random.uniform(0, 15), "cancel")]
        if kind == "pause":
            pause = now + self._random.uniform(1, 12)
            self._planned_requests[job_id] = [(pause, "pause"), (pause + self._random.uniform(2, 6), "resume")]
        if self._random.random() < 0.3:
            viewer = Viewer(self._service, job_id, self._random.randrange(2**31))
            self.viewers.append(viewer)
            viewer.start()

    def _accept(self, send: Any, what: str) -> str:
        """Send with one idempotency key until there is a response; returns the id of the job."""
        key = str(uuid.UUID(int=self._random.getrandbits(128)))
        while True:
            try:
                job = send(key)
            except Refused:
                raise
            except ServiceError as error:
                self.counts[f"submits again after {type(error).__name__}"] += 1
                time.sleep(0.5)
                continue
            self.accepted[job.id] = what
            self.counts[f"{what} submitted"] += 1
            return str(job.id)


class Viewer(threading.Thread):
    """A thread that reads one job's event stream and cuts its socket at random bytes; `seqs` must be 1, 2, 3, …"""

    def __init__(self, service: Service, job_id: str, seed: int) -> None:
        super().__init__(name="viewer", daemon=True)
        self._url = f"{service.url}/jobs/{job_id}/events"
        self._random = random.Random(seed)
        self.job_id = job_id
        self.seqs: list[int] = []
        self.cuts = 0
        self.ended = False
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self.ended and not self._stopped.is_set():
            try:
                self._read(self._random.randrange(200, 20_000))
            except (httpx.HTTPError, OSError):
                time.sleep(0.3)

    def stop(self) -> None:
        self._stopped.set()

    def _read(self, max_bytes: int) -> None:
        after = str(self.seqs[-1] if self.seqs else 0)
        timeout = httpx.Timeout(10, read=30)
        with (
            httpx.Client(timeout=timeout, trust_env=False) as http,
            http.stream("GET", self._url, headers={"Last-Event-ID": after}) as response,
        ):
            if response.status_code == httpx.codes.NO_CONTENT:
                self.ended = True
                return
            if response.status_code != httpx.codes.OK:
                time.sleep(0.3)
                return
            buffered, taken = b"", 0
            for received in response.iter_raw():
                piece = received[: max(0, max_bytes - taken)]
                taken += len(piece)
                buffered += piece
                *frames, buffered = buffered.split(b"\n\n")
                for frame in frames:
                    self._on_frame(frame)
                if self.ended or self._stopped.is_set():
                    return
                if taken >= max_bytes:
                    self.cuts += 1
                    return

    def _on_frame(self, frame: bytes) -> None:
        fields = dict(line.partition(b": ")[::2] for line in frame.split(b"\n") if not line.startswith(b":"))
        if fields.get(b"event") == b"end":  # it repeats the id of the last event
            self.ended = True
        elif fields.get(b"id", b"").isdigit():
            self.seqs.append(int(fields[b"id"]))


def unfinished(client: Client, ids: list[str]) -> list[str]:
    """Of these jobs, those that have not ended."""
    return [job_id for job_id in ids if client.job(job_id).state not in TERMINAL]
