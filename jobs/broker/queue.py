"""The Celery app and the sending of hints. A hint is a message with a job id and nothing else: it may be lost, late or
delivered twice, because the job is its row and the periodic sweep sends the hint again. On `cpu` and `gpu` it wakes a
worker, which takes the first job by the rows' order; on `control` it names the study. The Celery settings are the
measured ones of docs/decisions.
"""

import logging
from typing import Final
from uuid import UUID

import celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from jobs.broker.pubsub import redis_client
from jobs.settings import Settings

CPU: Final = "cpu"
GPU: Final = "gpu"
CONTROL: Final = "control"
QUEUES: Final = (CPU, GPU, CONTROL)

RUN_JOB: Final = "atft.run_job"
ADVANCE_STUDY: Final = "atft.advance_study"
SWEEP: Final = "atft.sweep"
PING: Final = "atft.ping"
PENDING_SECONDS: Final = 5  # how long a study's hint that was never processed suppresses further ones
# Seconds at least: on a busy control worker every sweep would otherwise expire before it is taken.
SWEEP_EXPIRES: Final = 10.0

_log = logging.getLogger(__name__)


def celery_app(settings: Settings) -> celery.Celery:
    """The Celery app of workers and hint senders; its tasks are in worker/tasks.py."""
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
    """Sends hints after the commit, and gives up within two seconds when the broker does not answer. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._app = celery_app(settings)
        # A worker's socket waits for messages; a sender's must not block a request on a dead peer.
        self._app.conf.broker_transport_options |= {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
        self._redis = redis_client(settings)

    def send(self, queue: str, job_id: UUID, priority: int) -> bool:
        """Send the hint that a job waits on `queue`; false, and logged, when the broker is unavailable: the sweep
        repeats it.
        """
        if queue != CONTROL:
            return self._send(RUN_JOB, [str(job_id)], queue, priority)
        pending = self._set_pending(job_id)
        if pending is False:
            return True
        sent = self._send(ADVANCE_STUDY, [str(job_id)], queue, max(1, priority))  # priority 0 is reserved for the sweep
        if pending and not sent:
            self.clear_pending(job_id)
        return sent

    def _set_pending(self, study: UUID) -> bool | None:
        """Mark that a hint of the study is waiting, since one suffices. False when one is already; None when Redis
        fails.
        """
        try:
            return bool(self._redis.set(_pending_key(study), 1, nx=True, ex=PENDING_SECONDS))
        except (RedisError, OSError):
            return None

    def clear_pending(self, study: UUID) -> None:
        """Remove the mark when the study's hint has been taken, so that later changes send another: before reading the
        rows.
        """
        try:
            self._redis.delete(_pending_key(study))
        except (RedisError, OSError) as error:
            _log.warning("the broker is unavailable, hints of study %s pause: %s", study, error)

    def ping(self, queue: str) -> bool:
        """Send a no-op task that shows whether the queue's worker still consumes."""
        return self._send(PING, [queue], queue, 0)

    def _send(self, task: str, arguments: list[str], queue: str, priority: int) -> bool:
        try:
            self._app.send_task(task, args=arguments, queue=queue, priority=priority)
        except (OperationalError, RedisError, OSError) as error:
            _log.warning("the broker is unavailable, the hint %s %s waits for the sweep: %s", task, arguments, error)
            return False
        return True

    def close(self) -> None:
        self._app.close()
        self._redis.close()


def _pending_key(study: UUID) -> str:
    return f"atft:pending:{study}"
