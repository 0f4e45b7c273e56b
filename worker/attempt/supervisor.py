"""One attempt of one job: claim it, start its child, record what it says, end it when asked to, settle what came of it.

The child is watched here, in the thread that started it; Postgres is written to by the Recorder's thread and, before
and after, by this one. Whatever befalls this process, the row stays true: an unsettled attempt loses its lease.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from atft.events import AnyEvent, Checkpointed, Evidence, Finished
from jobs import logs
from jobs.broker.queue import CONTROL
from jobs.db.session import transaction
from jobs.db.tables import Job, Json
from jobs.errors import NotFound, StaleAttempt
from jobs.record import history, init_from, lifecycle, transitions
from jobs.record.rewind import rewind
from jobs.settings import Settings
from jobs.states import JobKind, JobState, Reason
from worker.attempt.child import Child, ProtocolError
from worker.attempt.cleanup import remove_scratch, remove_uploads
from worker.attempt.launch import PROGRAM, Launch, Refused, attempt_folder, checkpoint_is_gone, launch, scratch
from worker.attempt.memory import oom_kills, postponed
from worker.attempt.outcome import Verdict, judge
from worker.attempt.recorder import Recorder
from worker.attempt.settlement import Settlement, accept, failure
from worker.attempt.watchdog import Ending, Timing, Watch
from worker.persistence import persist
from worker.slot import Slot

GROUP_SECONDS: Final = 30.0  # a SIGKILLed group that is still there then hangs in the kernel
MOST_LOOKS: Final = 8  # rows that one wake-up puts off or settles before it gives up
LAST_WORDS_SECONDS: Final = 2.0  # a process that left the group may hold the events pipe open
UNSENT: Final = "unsent.jsonl"  # in the attempt's folder, while Postgres is away for long
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Supervisor:
    """`publish` wakes up whoever watches a job, `hint` tells a queue to look; both may lose their message.

    `draining` says that this worker has been told to stop: nothing is started, and what runs is saved and queued again.
    """

    settings: Settings
    sessions: sessionmaker[Session]
    slot: Slot
    publish: Callable[[UUID], None]
    hint: Callable[[str, UUID, int], object]
    draining: Callable[[], bool] = lambda: False
    program: tuple[str, ...] = PROGRAM
    timing: Timing = field(default_factory=Timing)

    def run(self) -> JobState | None:
        """One attempt of the job that is first in line; its state then. None when nothing was due, or nothing could be
        written.
        """
        for _ in range(MOST_LOOKS):
            if self.draining():
                return None
            with transaction(self.sessions) as session:
                first = transitions.first_due(session, self.slot.queue)
                if first is None:
                    return None
                job = None if postponed(session, first.id) else self._claim(session, first.id)
            if job is not None:
                with logs.log_context(job_id=job.id, attempt=job.attempt):
                    return self._run(job)
        return None

    def _claim(self, session: Session, job_id: UUID) -> Job | None:
        return lifecycle.claim(
            session,
            job_id,
            worker=self.slot.name,
            host=self.slot.host,
            device=self.slot.device,
            lease_seconds=self.settings.lease_seconds,
            pid=os.getpid(),
        )

    def _run(self, job: Job) -> JobState | None:
        self.publish(job.id)
        recorder = Recorder(
            self.sessions,
            job.id,
            job.attempt,
            lease_seconds=self.settings.lease_seconds,
            look_seconds=self.timing.look_seconds,
            publish=self.publish,
            spill=attempt_folder(self.settings, job) / UNSENT,
            epoch_told=lambda: self._tell_parent(job),
        )
        recorder.start()
        try:
            settlement = self._attempt(job, recorder)
        except Exception as error:  # the edge: a bug here ends the job with a reason, not by its lease
            logger.exception("job %s, attempt %d: the supervisor failed", job.id, job.attempt)
            message = f"the worker failed: {type(error).__name__}: {error}"
            settlement = Settlement(verdict=Verdict(to=JobState.FAILED, reason=Reason.INTERNAL, message=message))
        finally:
            recorder.stop()
        if settlement is None or recorder.superseded:
            logger.warning("job %s, attempt %d: another attempt has the job; nothing was written", job.id, job.attempt)
            return None
        return self._settle(job, settlement)

    def _attempt(self, job: Job, recorder: Recorder) -> Settlement | None:
        """Start the child and see it through; None when nothing may be written."""
        try:
            prepared = self._prepare(job)
            if prepared is None:
                return None
            job, start = prepared
            kills = oom_kills()
            child = Child(
                start.argv,
                environment=start.environment,
                cwd=start.folder,
                log=start.folder / "log.txt",
                memory_bytes=start.memory_bytes,
            )
        except Refused as error:
            return Settlement(verdict=Verdict(to=JobState.FAILED, reason=error.reason, message=str(error)))
        except OSError as error:
            return Settlement(verdict=failure(error))
        attempt = _Attempt(job, start, child, recorder, Watch(self.timing, start.timeout_seconds), self.settings)
        try:
            attempt.attend(self.draining, self.timing.poll_seconds)
        finally:
            ended = child.close()
            shutil.rmtree(scratch(start.folder), ignore_errors=True)
        if attempt.watch.ending is Ending.SUPERSEDED or not recorder.flush(self._hopeless()) or recorder.superseded:
            return None
        if recorder.error is not None:
            raise recorder.error
        if not child.group_gone(GROUP_SECONDS):
            raise RuntimeError(f"processes of group {child.pid} outlived SIGKILL for {GROUP_SECONDS:.0f} s")
        tail = child.log_tail()
        verdict = judge(
            ending=attempt.watch.ending,
            word=attempt.watch.word,
            exit=ended,
            detail=attempt.detail or _last_line(tail),
            out_of_memory=oom_kills() > kills,
            evidence=attempt.evidence,
        )
        if verdict.to is JobState.SUCCEEDED and isinstance(attempt.watch.word, Finished):
            settlement = Settlement(verdict=verdict, exit=ended)
            return accept(self.settings, job, start, attempt.watch.word, attempt.evidence, settlement)
        return Settlement(verdict=verdict, exit=ended, log_tail=tail)

    def _prepare(self, job: Job) -> tuple[Job, Launch] | None:
        """The job as it now stands and how its child starts; None when nothing may be written. Raises Refused."""
        if checkpoint_is_gone(self.settings, job):
            again = persist(self.sessions, lambda session: self._start_over(session, job), self._hopeless())
            if again is None:
                return None
            job = again
        weights = None
        if (source := job.run.get("init_from")) is not None:
            weights = persist(self.sessions, lambda session: _weights(session, UUID(source)), self._hopeless())
            if weights is None:
                return None
        device = self.slot.cuda_device
        return job, launch(self.settings, job, cuda_device=device, weights=weights, program=self.program)

    def _start_over(self, session: Session, job: Job) -> Job:
        """Drop a checkpoint whose files are gone, and the points before it: they are made anew. Raises StaleAttempt."""
        job = history.lock_running(session, job.id, job.attempt)
        if job.checkpoint is None:  # done before: only the answer to the commit was lost
            return job
        message = f"the checkpoint {job.checkpoint['path']} is gone from the disk: the run starts over"
        job.checkpoint = None
        for name, value in rewind(session, job).items():
            setattr(job, name, value)
        history.add_event(session, job.id, "log", {"level": "warning", "message": message}, job.attempt)
        return job

    def _hopeless(self) -> Callable[[], bool]:
        """True once a worker that must stop has waited long enough for Postgres: the lease will tell what we cannot."""
        told_at: list[float] = []

        def hopeless() -> bool:
            if self.draining() and not told_at:
                told_at.append(time.monotonic())
            return bool(told_at) and time.monotonic() - told_at[0] > self.timing.grace_seconds

        return hopeless

    def _settle(self, job: Job, settlement: Settlement) -> JobState | None:
        counts = settlement.verdict.counts
        delay = settlement.verdict.delay_seconds
        if counts:
            delay = min(self.timing.retry_seconds * 2**job.failures, self.timing.max_retry_seconds)
        try:
            state = persist(self.sessions, lambda session: settlement.write(session, job, delay), self._hopeless())
        except StaleAttempt:
            logger.warning("job %s, attempt %d: another attempt has the job; nothing was written", job.id, job.attempt)
            return None
        logger.info("job %s, attempt %d: %s %s", job.id, job.attempt, state, settlement.verdict.message or "")
        remove_scratch(self.settings, job)
        if job.kind is JobKind.DATASET and state is JobState.SUCCEEDED:
            persist(self.sessions, lambda session: remove_uploads(self.settings, session, job), self._hopeless())
        self.publish(job.id)
        self._tell_parent(job)
        if state is JobState.QUEUED and not delay:
            self.hint(job.queue, job.id, job.priority)
        return state

    def _tell_parent(self, job: Job) -> None:
        """The study has news to judge."""
        if job.parent_id is not None:
            self.hint(CONTROL, job.parent_id, job.priority)


def _weights(session: Session, source: UUID) -> init_from.Weights:
    """Those that a job begins with. Raises Refused when they are not kept any more."""
    try:
        return init_from.weights(session, source)
    except NotFound as error:
        raise Refused(Reason.INVALID_PARAMS, f"init_from: {error}") from error


@dataclass(eq=False)
class _Attempt:
    """The child's life: hears it, renews its lease, asks it to stop, kills it."""

    job: Job
    start: Launch
    child: Child
    recorder: Recorder
    watch: Watch
    settings: Settings
    evidence: Json | None = None
    detail: str = ""

    def attend(self, draining: Callable[[], bool], poll_seconds: float) -> None:
        """Returns when the child has ended and all it said is with the recorder."""
        renew_at, turned = 0.0, time.monotonic()
        while not self.child.exited():
            if time.monotonic() >= renew_at:
                self.child.renew()
                renew_at = time.monotonic() + self.settings.lease_seconds / 3
            if not self._listen(poll_seconds):
                return
            if self.recorder.error is not None:
                raise self.recorder.error
            told = draining()
            if time.monotonic() - turned > self.watch.stall_seconds / 2:  # frozen ourselves, the child perhaps with us
                self.watch.not_listening()
            turned = time.monotonic()
            ending = self.watch.step(wanted=self.recorder.wanted, draining=told, superseded=self.recorder.superseded)
            if ending is not None:
                self._end(ending)
            if self.watch.must_die:
                self.child.kill()
        self.child.wait(0.0)
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while not self.child.silent and time.monotonic() < deadline and self._listen(poll_seconds, last=True):
            pass

    def _listen(self, poll_seconds: float, *, last: bool = False) -> bool:
        """Hear the child out; False when it no longer speaks the protocol and has been killed for it. Its `last` words
        need no room: a pipe holds little.
        """
        if self.recorder.full and not last:
            time.sleep(poll_seconds)
            self.watch.not_listening()
            return True
        try:
            events = self.child.events(poll_seconds)
        except ProtocolError as error:
            self.detail = str(error)
            self.watch.end(Ending.PROTOCOL)
            self.child.kill()
            return False
        for event in events:
            self.watch.heard(event)
            self.recorder.add(self._placed(event))
        return True

    def _placed(self, event: AnyEvent) -> AnyEvent:
        """A checkpoint gets its path under the job's folder, for the next attempt; the newest evidence is kept here."""
        if isinstance(event, Checkpointed):
            return event.model_copy(update={"path": f"{self.job.attempt}/{event.path}"})
        if isinstance(event, Evidence):
            self.evidence = dict(event.body)
        return event

    def _end(self, ending: Ending) -> None:
        watch = self.watch
        logger.info("job %s, attempt %d: ending the program: %s", self.job.id, self.job.attempt, ending.name)
        if ending is Ending.STALL:
            self.detail = (
                f"no word from the program for {watch.silent_seconds:.0f} s, in phase {watch.phase}; "
                "the stacks of its threads are at the end of the log"
            )
            self.child.dump_stacks()
            self.child.wait(1.0)
        elif ending is Ending.TIMEOUT:
            self.detail = f"the attempt ran longer than timeout_seconds = {self.start.timeout_seconds:g}"
        if ending not in (Ending.STALL, Ending.SUPERSEDED):
            self.child.ask_to_stop()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
