"""The Celery app and the sending of hints. A message carries a job id and nothing else: lost, late or double, it
does no harm, for the row is the job and the sweep repeats the hint. On `cpu` and `gpu` it is a wake-up, and the rows
say who goes first; on `control` it names the study. The settings are those that were measured to run clean
(docs/decisions).
"""

import logging
from typing import Final
from uuid import UUID

import celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from jobs.settings import Settings

CPU: Final = "cpu"
GPU: Final = "gpu"
CONTROL: Final = "control"
QUEUES: Final = (CPU, GPU, CONTROL)

RUN_JOB: Final = "atft.run_job"
ADVANCE_STUDY: Final = "atft.advance_study"
SWEEP: Final = "atft.sweep"
PING: Final = "atft.ping"
SWEEP_EXPIRES: Final = 10.0  # seconds at least: a busy control worker that takes each one too late would never sweep

_log = logging.getLogger(__name__)


def celery_app(settings: Settings) -> celery.Celery:
    """The app that workers run and hints go through; its tasks are in worker/tasks.py."""
    app = celery.Celery("atft", broker=settings.redis_url.get_secret_value(), set_as_current=False)
    app.conf.update(
        task_queues=[Queue(name, routing_key=name) for name in QUEUES],  # type: ignore[no-untyped-call]
        task_default_queue=CPU,
        task_create_missing_queues=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        task_serializer="json",
        accept_content=["json"],
        task_default_priority=5,
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1, "interval_step": 0.0, "interval_max": 0.1},
        worker_pool="prefork",
        worker_pool_start_method="spawn",
        worker_proc_alive_timeout=60.0,
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": "atft:",
            "queue_order_strategy": "priority",
            "priority_steps": list(range(10)),
            "sep": ":",
            "socket_keepalive": True,
            "socket_timeout": 5.0,
            "socket_connect_timeout": 2.0,
            "health_check_interval": 25,
        },
        beat_schedule={
            "sweep": {
                "task": SWEEP,
                "schedule": settings.sweep_seconds,
                "options": {"queue": CONTROL, "priority": 0, "expires": max(settings.sweep_seconds, SWEEP_EXPIRES)},
            },
            "ping": {"task": PING, "schedule": 60.0, "options": {"queue": CONTROL, "priority": 0, "expires": 60.0}},
        },
        timezone="UTC",
    )
    return app


class HintSender:
    """Sends hints after the commit, within a second or two whatever the broker does. Threads may share one."""

    def __init__(self, settings: Settings) -> None:
        self._app = celery_app(settings)
        # A worker's socket waits for messages; a sender's must not keep a request waiting for a peer that is dead.
        self._app.conf.broker_transport_options |= {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}

    def send(self, queue: str, job_id: UUID, priority: int) -> bool:
        """Say that a job waits on `queue`; false, and logged, when the broker is away: the sweep will say it again."""
        task = ADVANCE_STUDY if queue == CONTROL else RUN_JOB
        return self._send(task, [str(job_id)], queue, priority)

    def ping(self, queue: str) -> bool:
        """A no-op that shows whether the queue's worker still consumes."""
        return self._send(PING, [queue], queue, 0)

    def _send(self, task: str, arguments: list[str], queue: str, priority: int) -> bool:
        try:
            self._app.send_task(task, args=arguments, queue=queue, priority=priority)
        except (OperationalError, RedisError, OSError) as error:
            _log.warning("the broker is away, the hint %s %s waits for the sweep: %s", task, arguments, error)
            return False
        return True

    def close(self) -> None:
        self._app.close()
