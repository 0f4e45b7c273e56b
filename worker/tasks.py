"""The Celery tasks and their process setup. A task is only a hint to look at the rows of the database.

Celery's main process only talks to the broker and sends the heartbeat. Jobs run in its one pool process, which dies
with it (PR_SET_PDEATHSIG). On SIGTERM the main process sends SIGUSR2 to the pool process and waits for it.
"""

import contextlib
import logging
import os
import signal
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from celery import Task, signals
from kombu.exceptions import ChannelError, OperationalError
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy.orm import Session, sessionmaker

from jobs import logs
from jobs.broker import pubsub, queue
from jobs.db.session import sync_engine, sync_sessions, transaction
from jobs.record import queries, store_identity
from jobs.settings import Settings
from worker.attempt.fork_server import ForkServer
from worker.attempt.launch import PROGRAM
from worker.attempt.supervisor import Supervisor
from worker.clock import die_with_parent
from worker.persistence import POSTGRES_UNAVAILABLE
from worker.slot import DeviceSlot
from worker.upkeep.heartbeat import Heartbeat
from worker.upkeep.janitor import Janitor
from worker.upkeep.orphans import remove_orphans
from worker.upkeep.scrub import Scrub
from worker.upkeep.sweeper import Sweeper

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

DRAIN_SIGNAL: Final = signal.SIGUSR2
logger = logging.getLogger(__name__)
settings = Settings()
app = queue.celery_app(settings)
app.set_default()
for noisy in ("celery.app.trace", "celery.beat", "celery.worker.strategy"):  # three lines for every sweep
    logging.getLogger(noisy).setLevel(logging.WARNING)
_draining = False


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _set_up_logs(**_: Any) -> None:
    """Configure our log format instead of Celery's."""
    logs.configure(settings.log_level, "")


@app.task(name=queue.RUN_JOB, bind=True)  # type: ignore[untyped-decorator]
def run_job(task: Task, _job_id: str) -> None:
    """Run one attempt of the job that is first in the queue, which may be another than the message names."""
    _supervisor(DeviceSlot.parse(task.request.hostname)).run()


@app.task(name=queue.ADVANCE_STUDY)  # type: ignore[untyped-decorator]
def advance_study(job_id: str) -> None:
    """Advance one study by one step."""
    from worker.studies.advance import advance  # noqa: PLC0415 - workers that run trials need no Optuna

    _hints().clear_pending(UUID(job_id))
    with logs.log_context(job_id=job_id):
        result = advance(_sessions(), _storage, settings, UUID(job_id))
    for hint in result.hints:
        _hints().send(*hint)
    for changed in result.changed:
        _publish(changed)
    if result.hints:  # the study's end needs it, and takes seconds to import it: better while its jobs run
        import optuna.importance  # noqa: F401, PLC0415


@app.task(name=queue.SWEEP)  # type: ignore[untyped-decorator]
def sweep() -> None:
    _sweeper().sweep()
    if _store_problem() is None:
        _janitor().run_once()
        _scrub().step()


@app.task(name=queue.PING)  # type: ignore[untyped-decorator]
def ping(name: str | None = None) -> None:
    """Without `name`: ping every queue with a live worker and no messages. With it: log that the queue is consumed."""
    if name is not None:
        logger.debug("queue %s is consumed", name)
        return
    with transaction(_sessions()) as session:
        watched = queries.live_queues(session)
    for other in sorted(watched - {queue.CONTROL}):
        if _queue_is_empty(other):
            _hints().ping(other)


@cache
def _sessions() -> sessionmaker[Session]:
    """Created on first use: an engine must not be shared across a fork."""
    return sync_sessions(sync_engine(settings))


@cache
def _storage() -> "BaseStorage":
    from worker.studies.samplers import open_storage  # noqa: PLC0415 - as above

    return open_storage(settings)


@cache
def _hints() -> queue.HintSender:
    return queue.HintSender(settings)


@cache
def _supervisor(slot: DeviceSlot) -> Supervisor:
    return Supervisor(
        settings=settings,
        sessions=_sessions(),
        slot=slot,
        publish=_publish,
        hint=_hints().send,
        draining=lambda: _draining,
        fork_server=ForkServer(PROGRAM) if settings.fork_server else None,
    )


@cache
def _sweeper() -> Sweeper:
    return Sweeper(
        _sessions(),
        settings.lease_seconds,
        hint=_hints().send,
        queue_is_empty=_queue_is_empty,
        publish=_publish,
        remove_orphans=_remove_orphans,
        sweep_seconds=settings.sweep_seconds,
    )


@cache
def _janitor() -> Janitor:
    return Janitor(settings, _sessions(), _publish)


def _store_problem() -> str | None:
    """Why this worker's run root is none that files may be removed from, or read; null when it is the store."""
    try:
        with transaction(_sessions()) as session:
            problem = store_identity.bind(session, settings.run_root)
    except POSTGRES_UNAVAILABLE as error:
        problem = f"Postgres is unavailable: {error}"
    if problem is not None:
        logger.error("no file is cleaned up or read: %s", problem)
    return problem


def _remove_orphans() -> None:
    if _store_problem() is None:
        remove_orphans(settings, _sessions())


@cache
def _scrub() -> Scrub:
    return Scrub(settings, _sessions())


@cache
def _redis() -> Redis:
    return pubsub.redis_client(settings)


def _publish(job_id: UUID) -> None:
    pubsub.publish(_redis(), job_id)


def _queue_is_empty(name: str) -> bool:
    """True if the queue holds no message; False when the broker is unavailable and nothing could be sent."""
    try:
        with app.connection_for_read() as connection, connection.channel() as channel:
            return int(channel.queue_declare(queue=name, passive=True).message_count) == 0
    except ChannelError:  # the broker keeps no empty queues
        return True
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("the broker is unavailable: %s", error)
        return False


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _start_heartbeat(sender: Any, **_: object) -> None:
    heartbeat = Heartbeat(_sessions(), DeviceSlot.parse(sender.hostname), settings.run_root)
    heartbeat.start()
    signals.worker_shutting_down.connect(lambda **_: _drain(sender.pool), weak=False)


def _drain(pool: Any) -> None:
    """Signal the pool processes to drain; runs inside a signal handler of the main process."""
    for process in pool._pool._pool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, DRAIN_SIGNAL)


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _enter_pool_process(**_: object) -> None:
    signal.signal(DRAIN_SIGNAL, _start_draining)
    die_with_parent()


def _start_draining(*_: object) -> None:
    global _draining  # noqa: PLW0603 - a signal handler has no other place to write to
    _draining = True
