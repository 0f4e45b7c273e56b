"""A harness for the supervisor's tests: a database, jobs for it, and fake programs that behave well or badly."""

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from atft.spec.job import TrainSpec
from jobs.db.session import transaction
from jobs.db.tables import Attempt, Job, Metric
from jobs.record import lifecycle, queries, submission
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Wanted
from worker.attempt.supervisor import Supervisor
from worker.attempt.watchdog import Timing
from worker.slot import DeviceSlot

PROGRAMS = Path(__file__).parents[2] / "programs"
FINGERPRINT = "f00d"
SHORT_TIMING = Timing(
    poll_seconds=0.02,
    wanted_poll_seconds=0.05,
    startup_seconds=20,
    stall_seconds=20,
    grace_seconds=1.0,
    save_grace_seconds=2.0,
    retry_seconds=0.0,
)


def program(name: str, *options: str, imports: bool = False) -> tuple[str, ...]:
    flags = [] if imports else ["-SE"]
    return (sys.executable, *flags, str(PROGRAMS / f"{name}.py"), *options)


HONEST_PROGRAM = program("obedient", "--evidence-for", FINGERPRINT, imports=True)


@dataclass
class SupervisorHarness:
    """A supervisor, its database, and jobs for it."""

    settings: Settings
    sessions: sessionmaker[Session]
    published: list[UUID] = field(default_factory=list)
    hinted: list[UUID] = field(default_factory=list)
    drain: bool = False
    timing: Timing = SHORT_TIMING

    def __post_init__(self) -> None:
        (self.settings.caches_root / FINGERPRINT).mkdir(parents=True)

    def submit(
        self,
        *,
        max_attempts: int = 3,
        init_from: UUID | None = None,
        fingerprint: str = FINGERPRINT,
        **trainer: object,
    ) -> UUID:
        source = None if init_from is None else str(init_from)
        spec = TrainSpec.model_validate({"dataset": "d", "init_from": source, "trainer": trainer, "baselines": False})
        with transaction(self.sessions) as session:
            return submission.submit(
                session,
                submission.NewJob(
                    kind=JobKind.TRAIN,
                    spec=spec.model_dump(mode="json"),
                    spec_digest=spec.digest(),
                    queue="cpu",
                    dataset="d",
                    dataset_fingerprint=fingerprint,
                    max_attempts=max_attempts,
                ),
            ).job.id

    def supervisor(self, program: tuple[str, ...], index: int = 0) -> Supervisor:
        return Supervisor(
            settings=self.settings,
            sessions=self.sessions,
            slot=DeviceSlot("cpu", index, "here"),
            publish=self.published.append,
            hint=lambda _queue, job_id, _priority: self.hinted.append(job_id),
            draining=lambda: self.drain,
            program=program,
            timing=self.timing,
        )

    def run(self, job_id: UUID, *program: str) -> JobState | None:
        """The job's state after an attempt; it must be first in line, or there must be nothing to do."""
        state = self.supervisor(program).run()
        assert state is None or self.published[-1] == job_id
        return state

    def start(self, *program: str) -> "SupervisorThread":
        running = SupervisorThread(self.supervisor(program))
        running.start()
        return running

    def job(self, job_id: UUID) -> Job:
        with transaction(self.sessions) as session:
            return queries.get(session, job_id)

    def want(self, job_id: UUID, wanted: Wanted) -> None:
        with transaction(self.sessions) as session:
            lifecycle.want(session, job_id, wanted, by="test")

    def attempt(self, job_id: UUID, number: int) -> Attempt:
        with transaction(self.sessions) as session:
            return session.get_one(Attempt, (job_id, number))

    def points(self, job_id: UUID) -> list[tuple[str, int, float | None]]:
        with transaction(self.sessions) as session:
            query = select(Metric.name, Metric.step, Metric.value).where(Metric.job_id == job_id)
            return sorted((row.name, row.step, row.value) for row in session.execute(query))

    def folder(self, job_id: UUID, attempt: int = 1) -> Path:
        return self.settings.jobs_root / str(job_id) / str(attempt)

    def wait_until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    def child_of(self, job_id: UUID, attempt: int = 1) -> int:
        """The pid of the attempt's child, from the process table."""
        folder = str(self.folder(job_id, attempt)).encode()

        def find() -> list[int]:
            found = []
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    command = entry.read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if (
                    folder in command
                    and b"--events-fd" in command
                    and os.getsid(int(entry.parent.name)) == int(entry.parent.name)
                ):
                    found.append(int(entry.parent.name))
            return found

        self.wait_until(find)
        return find()[0]


class SupervisorThread(threading.Thread):
    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(daemon=True)
        self.supervisor = supervisor
        self.state: JobState | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.state = self.supervisor.run()
        except BaseException as error:  # noqa: BLE001 - shown by `end`
            self.error = error

    def result(self, seconds: float = 60.0) -> JobState | None:
        self.join(seconds)
        assert not self.is_alive(), "the supervisor did not end in time"
        if self.error is not None:
            raise self.error
        return self.state


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
