"""One attempt of one job: claim it, run its child process, record its events, stop it on request, settle its outcome.

The child is monitored in the thread that started it; Postgres is written to by the Recorder's thread and, before and
after, by this one. If this process dies, the unsettled attempt's lease expires and the sweeper ends it.
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

from atft.checksums import Checksums
from atft.events import AnyEvent, Checkpointed, Evidence, Finished
from atft.spec.kinds import KINDS
from jobs import logs
from jobs.broker.queue import CONTROL
from jobs.db.columns import Checkpoint
from jobs.db.session import transaction
from jobs.db.tables import Attempt, Dataset, Job, Json
from jobs.errors import StaleAttempt
from jobs.record import caches, history, lifecycle, store_identity, stored, transitions
from jobs.record.rewind import rewind
from jobs.settings import Settings
from jobs.states import JobState, Reason, Wanted
from worker.attempt.child import Child, ProtocolError
from worker.attempt.cleanup import remove_scratch, remove_uploads
from worker.attempt.fork_server import ForkServer
from worker.attempt.inputs import Damage, Inputs, find_damage
from worker.attempt.launch import (
    PROGRAM,
    Launch,
    LaunchRefused,
    attempt_folder,
    newest_whole_checkpoint,
    prepare_launch,
    scratch_folder,
)
from worker.attempt.memory import count_oom_kills, postpone_for_memory
from worker.attempt.outcome import Outcome, decide_outcome
from worker.attempt.recorder import Recorder
from worker.attempt.settlement import Settlement, check_result, outcome_of_output_error
from worker.attempt.watchdog import StopCause, Timing, Watchdog
from worker.persistence import persist
from worker.slot import DeviceSlot

GROUP_EXIT_SECONDS: Final = 30.0  # a process group that survives SIGKILL for longer hangs in the kernel
MAX_CLAIM_TRIES: Final = 8  # jobs postponed or lost to another worker before one hint gives up
FINAL_EVENTS_SECONDS: Final = 2.0  # a process that left the group may keep the events pipe open
SPILL_FILE: Final = "unsent.jsonl"  # in the attempt's folder, while Postgres is unavailable for long
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Supervisor:
    """Runs attempts in one device slot. `publish` notifies followers of a job, `hint` sends a hint to a queue; both may
    lose messages. When `draining` returns True, no job is started, and the running one saves and is queued again.
    """

    settings: Settings
    sessions: sessionmaker[Session]
    slot: DeviceSlot
    publish: Callable[[UUID], None]
    hint: Callable[[str, UUID, int], object]
    draining: Callable[[], bool] = lambda: False
    program: tuple[str, ...] = PROGRAM
    timing: Timing = field(default_factory=Timing)
    checksums: Checksums = field(default_factory=Checksums)
    fork_server: ForkServer | None = None

    def run(self) -> JobState | None:
        """Run one attempt of the job that is first in the queue; returns its new state. None when no job was due, or
        nothing could be written.
        """
        for _ in range(MAX_CLAIM_TRIES):
            if self.draining():
                return None
            with transaction(self.sessions) as session:
                if (problem := store_identity.bind(session, self.settings.run_root)) is not None:
                    logger.error("no job is taken: %s", problem)
                    return None
                first = transitions.first_due(session, self.slot.queue)
                if first is None:
                    return None
                job = None if postpone_for_memory(session, first.id) else self._claim(session, first.id)
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
            wanted_poll_seconds=self.timing.wanted_poll_seconds,
            publish=self.publish,
            spill_path=attempt_folder(self.settings, job) / SPILL_FILE,
            on_epoch_recorded=lambda: self._notify_study(job),
        )
        recorder.start()
        try:
            settlement = self._attempt(job, recorder)
        except Exception as error:  # outermost handler: a bug here fails the job with a reason at once
            logger.exception("job %s, attempt %d: the supervisor failed", job.id, job.attempt)
            message = f"the worker failed: {type(error).__name__}: {error}"
            settlement = Settlement(outcome=Outcome(to=JobState.FAILED, reason=Reason.INTERNAL, message=message))
        finally:
            recorder.stop()
        if settlement is None or recorder.superseded:
            logger.warning("job %s, attempt %d: another attempt has the job; nothing was written", job.id, job.attempt)
            return None
        return self._settle(job, self._unless_store_is_lost(settlement))

    def _unless_store_is_lost(self, settlement: Settlement) -> Settlement:
        """The settlement, or the job's return to the queue when this worker sees the store no more: what it missed is
        there for others.
        """
        outcome = settlement.outcome
        if outcome.to not in (JobState.SUCCEEDED, JobState.FAILED) and not outcome.counts_as_failure:
            return settlement
        root = self.settings.run_root
        problem = persist(
            self.sessions, lambda session: store_identity.problem(session, root), self._give_up_predicate()
        )
        if problem is None:
            return settlement
        logger.error("the job is put back: %s", problem)
        outcome = Outcome(
            to=JobState.QUEUED, reason=Reason.DRAINED, message="its worker does not see the store any more"
        )
        return Settlement(outcome=outcome, exit_status=settlement.exit_status, log_tail=settlement.log_tail)

    def _attempt(self, job: Job, recorder: Recorder) -> Settlement | None:
        """Run the child to its end and return the settlement; None when nothing may be written."""
        try:
            prepared = self._prepare(job)
            if prepared is None:
                return None
            job, launch, inputs = prepared
            kills = count_oom_kills()
            server = None if KINDS[job.kind].builds else self.fork_server
            child = Child(
                launch.argv,
                environment=launch.environment,
                cwd=launch.folder,
                log=launch.folder / "log.txt",
                memory_bytes=launch.memory_bytes,
                fork_server=server,
                give_up=lambda: self.draining() or recorder.superseded or recorder.wanted is not Wanted.RUN,
            )
        except LaunchRefused as error:
            return Settlement(outcome=Outcome(to=JobState.FAILED, reason=error.reason, message=str(error)))
        except OSError as error:
            return Settlement(outcome=outcome_of_output_error(error))
        monitor = _ChildMonitor(
            job, launch, child, recorder, Watchdog(self.timing, launch.timeout_seconds), self.settings
        )
        try:
            monitor.run(self.draining, self.timing.poll_seconds)
        finally:
            exit_status = child.close()
            shutil.rmtree(scratch_folder(launch.folder), ignore_errors=True)
        if (
            monitor.watchdog.stop_cause is StopCause.SUPERSEDED
            or not recorder.flush(self._give_up_predicate())
            or recorder.superseded
        ):
            return None
        if recorder.error is not None:
            raise recorder.error
        if not child.wait_for_group_exit(GROUP_EXIT_SECONDS):
            raise RuntimeError(f"processes of group {child.pid} outlived SIGKILL for {GROUP_EXIT_SECONDS:.0f} s")
        tail = child.log_tail()
        outcome = decide_outcome(
            stop_cause=monitor.watchdog.stop_cause,
            final_event=monitor.watchdog.final_event,
            exit_status=exit_status,
            detail=monitor.detail or _last_line(tail),
            log_tail=tail,
            out_of_memory=count_oom_kills() > kills,
            evidence=monitor.evidence,
        )
        if outcome.to in (JobState.SUCCEEDED, JobState.PAUSED):  # the child read for as long as it ran
            inputs = persist(self.sessions, inputs.as_of_now, self._give_up_predicate()) or inputs
            damage = inputs.replaced(self.settings) or self._find_damage(inputs)
            if damage is not None:
                message = f"while the job ran: {damage}"
                outcome = Outcome(to=JobState.FAILED, reason=Reason.DATA_CHANGED, message=message)
        if outcome.to is JobState.SUCCEEDED and isinstance(monitor.watchdog.final_event, Finished):
            settlement = Settlement(outcome=outcome, exit_status=exit_status)
            return check_result(self.settings, job, launch, monitor.watchdog.final_event, monitor.evidence, settlement)
        return Settlement(outcome=outcome, exit_status=exit_status, log_tail=tail)

    def _prepare(self, job: Job) -> tuple[Job, Launch, Inputs] | None:
        """The current job, its launch and its inputs; None when nothing may be written. Raises LaunchRefused."""
        checkpoint = newest_whole_checkpoint(self.settings, job)
        if checkpoint != job.checkpoint:
            rewound = persist(
                self.sessions, lambda session: self._fall_back(session, job, checkpoint), self._give_up_predicate()
            )
            if rewound is None:
                return None
            job = rewound
        inputs = persist(self.sessions, lambda session: Inputs.of(session, job), self._give_up_predicate())
        if inputs is None:
            return None
        inputs = inputs.with_files(self.settings)
        damage = self._find_damage(inputs)
        if damage is not None:
            raise LaunchRefused(Reason.DATA_CHANGED, str(damage))
        launch = prepare_launch(
            self.settings, job, cuda_device=self.slot.cuda_device, weights=inputs.weights, program=self.program
        )
        return job, launch, inputs

    def _find_damage(self, inputs: Inputs) -> Damage | None:
        """What is missing or altered of a job's inputs; notes in their rows which files were read for that, and removes
        what was computed from a damaged cache.
        """
        damage, read = find_damage(self.settings, inputs.rows, self.checksums)
        if damage is not None and isinstance(damage.row, Dataset):
            caches.drop_derived(self.settings.run_root / damage.row.path)

        def record(session: Session) -> None:
            stored.record_read(session, read, whole=True)
            if damage is not None:
                stored.record_read(session, [damage.row], whole=False)

        if read or damage is not None:
            persist(self.sessions, record, self._give_up_predicate())
        return damage

    def _fall_back(self, session: Session, job: Job, checkpoint: Checkpoint | None) -> Job:
        """Make `checkpoint`, or none, that from which the run goes on, and drop the points after it. Raises
        StaleAttempt.
        """
        job = history.lock_running(session, job.id, job.attempt)
        if (problem := store_identity.problem(session, self.settings.run_root)) is not None:
            raise LaunchRefused(Reason.INTERNAL, problem)  # and the job is put back
        if job.checkpoint is None or job.checkpoint == checkpoint:  # done before: only the reply to the commit was lost
            return job
        goes_on = "starts over" if checkpoint is None else f"goes on from {checkpoint['path']}"
        message = f"the checkpoint {job.checkpoint['path']} is missing or damaged: the run {goes_on}"
        job.checkpoint = checkpoint
        session.get_one(Attempt, (job.id, job.attempt)).resumed_from = checkpoint
        for name, value in rewind(session, job).items():
            setattr(job, name, value)
        history.add_event(session, job.id, "log", {"level": "warning", "message": message}, job.attempt)
        return job

    def _give_up_predicate(self) -> Callable[[], bool]:
        """A predicate that is True once a draining worker has waited for Postgres for its grace period."""
        draining_since: list[float] = []

        def give_up() -> bool:
            if self.draining() and not draining_since:
                draining_since.append(time.monotonic())
            return bool(draining_since) and time.monotonic() - draining_since[0] > self.timing.grace_seconds

        return give_up

    def _settle(self, job: Job, settlement: Settlement) -> JobState | None:
        counts = settlement.outcome.counts_as_failure
        delay = settlement.outcome.delay_seconds
        if counts:
            delay = min(self.timing.retry_seconds * 2**job.failures, self.timing.max_retry_seconds)
        try:
            state, due = persist(
                self.sessions, lambda session: settlement.write(session, job, delay), self._give_up_predicate()
            ) or (None, None)
        except StaleAttempt:
            logger.warning("job %s, attempt %d: another attempt has the job; nothing was written", job.id, job.attempt)
            return None
        logger.info("job %s, attempt %d: %s %s", job.id, job.attempt, state, settlement.outcome.message or "")
        remove_scratch(self.settings, job)
        if KINDS[job.kind].builds and state is JobState.SUCCEEDED:
            persist(
                self.sessions, lambda session: remove_uploads(self.settings, session, job), self._give_up_predicate()
            )
        self.publish(job.id)
        self._notify_study(job)
        if due is not None:
            self.hint(due.queue, due.id, due.priority)
        return state

    def _notify_study(self, job: Job) -> None:
        """Send a hint to advance the study of a trial."""
        if job.parent_id is not None:
            self.hint(CONTROL, job.parent_id, job.priority)


@dataclass(eq=False)
class _ChildMonitor:
    """Monitors one child: reads its events, renews its lease, terminates and kills it."""

    job: Job
    launch: Launch
    child: Child
    recorder: Recorder
    watchdog: Watchdog
    settings: Settings
    evidence: Json | None = None
    detail: str = ""

    def run(self, draining: Callable[[], bool], poll_seconds: float) -> None:
        """Return when the child has exited and the recorder has all of its events."""
        renew_at, loop_started = 0.0, time.monotonic()
        while not self.child.exited():
            if time.monotonic() >= renew_at:
                self.child.renew()
                renew_at = time.monotonic() + self.settings.lease_seconds / 3
            if not self._read_events(poll_seconds):
                return
            if self.recorder.error is not None:
                raise self.recorder.error
            is_draining = draining()
            # Has this process been suspended, perhaps with the child?
            if time.monotonic() - loop_started > self.watchdog.stall_seconds / 2:
                self.watchdog.reset_silence()
            loop_started = time.monotonic()
            stop_cause = self.watchdog.step(
                wanted=self.recorder.wanted, draining=is_draining, superseded=self.recorder.superseded
            )
            if stop_cause is not None:
                self._end(stop_cause)
            if self.watchdog.must_kill:
                self.child.kill()
        self.child.wait(0.0)
        deadline = time.monotonic() + FINAL_EVENTS_SECONDS
        while (
            not self.child.events_closed and time.monotonic() < deadline and self._read_events(poll_seconds, last=True)
        ):
            pass

    def _read_events(self, poll_seconds: float, *, last: bool = False) -> bool:
        """Pass on the child's events; False when it violated the protocol and has been killed. The `last` events,
        after its exit, are read even when the buffer is full: a pipe holds little.
        """
        if self.recorder.full and not last:
            time.sleep(poll_seconds)
            self.watchdog.reset_silence()
            return True
        try:
            events = self.child.events(poll_seconds)
        except ProtocolError as error:
            self.detail = str(error)
            self.watchdog.begin_stop(StopCause.PROTOCOL)
            self.child.kill()
            return False
        for event in events:
            self.watchdog.on_event(event)
            self.recorder.add(self._with_job_path(event))
        return True

    def _with_job_path(self, event: AnyEvent) -> AnyEvent:
        """The event with a checkpoint's path made relative to the job's folder; remembers the newest evidence."""
        if isinstance(event, Checkpointed):
            return event.model_copy(update={"path": f"{self.job.attempt}/{event.path}"})
        if isinstance(event, Evidence):
            self.evidence = dict(event.body)
        return event

    def _end(self, stop_cause: StopCause) -> None:
        watchdog = self.watchdog
        logger.info("job %s, attempt %d: ending the program: %s", self.job.id, self.job.attempt, stop_cause.name)
        if stop_cause is StopCause.STALL:
            self.detail = (
                f"no event from the program for {watchdog.silent_seconds:.0f} s, in phase {watchdog.phase}; "
                "the stacks of its threads are at the end of the log"
            )
            self.child.dump_stacks()
            self.child.wait(1.0)
        elif stop_cause is StopCause.TIMEOUT:
            self.detail = f"the attempt ran longer than timeout_seconds = {self.launch.timeout_seconds:g}"
        if stop_cause not in (StopCause.STALL, StopCause.SUPERSEDED):
            self.child.terminate()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
