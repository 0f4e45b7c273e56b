"""Hints and publish/subscribe through a real Valkey, also when it is unavailable or does not respond."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
import redis

from jobs.broker.pubsub import PubSub, apublish, async_redis_client, publish, redis_client
from jobs.broker.queue import ADVANCE_STUDY, RUN_JOB, HintSender, celery_app
from jobs.embedded import servers as embedded
from jobs.settings import Settings


def _settings(url: str) -> Settings:
    return Settings(redis_url=url)


@pytest.fixture
def silent() -> str:
    """The URL of a server that accepts connections and never responds."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_hint_carries_the_id_on_its_queue_by_priority(settings: Settings) -> None:
    sender = HintSender(settings)
    urgent, later, study = uuid4(), uuid4(), uuid4()
    assert sender.send("cpu", urgent, 0)
    assert sender.send("cpu", later, 9)
    assert sender.send("control", study, 5)
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        names = sorted(key.decode() for key in client.keys("atft:c*"))
        assert names == ["atft:control:5", "atft:cpu", "atft:cpu:9"]
        for name, job_id, task in (
            ("atft:cpu", urgent, RUN_JOB),
            ("atft:cpu:9", later, RUN_JOB),
            ("atft:control:5", study, ADVANCE_STUDY),
        ):
            (message,) = client.lrange(name, 0, -1)
            assert json.loads(message)["headers"]["task"] == task
            assert str(job_id) in json.loads(message)["headers"]["argsrepr"]
    sender.close()


def waiting(settings: Settings) -> dict[str, int]:
    """Messages on the control queue, by Redis key."""
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        return {key.decode(): client.llen(key) for key in client.keys("atft:control*")}


def test_a_study_has_one_hint_waiting_until_its_advance_begins(settings: Settings) -> None:
    sender, other = HintSender(settings), HintSender(settings)
    study = uuid4()
    assert all(each.send("control", study, 5) for each in (sender, other, sender))
    assert waiting(settings) == {"atft:control:5": 1}
    assert sender.send("control", uuid4(), 5)
    assert waiting(settings) == {"atft:control:5": 2}
    other.clear_pending(study)
    assert sender.send("control", study, 5)
    assert waiting(settings) == {"atft:control:5": 3}
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        assert 0 < client.ttl(f"atft:pending:{study}") <= 5
    for each in (sender, other):
        each.close()


def test_a_study_never_goes_before_the_sweep(settings: Settings) -> None:
    sender = HintSender(settings)
    assert sender.send("control", uuid4(), 0)
    assert waiting(settings) == {"atft:control:1": 1}
    sender.close()


def test_celery_is_set_as_measured(settings: Settings) -> None:
    conf = celery_app(settings).conf
    assert conf.result_backend is None
    assert (conf.worker_pool, conf.worker_pool_start_method, conf.worker_concurrency) == ("prefork", "spawn", 1)
    assert (conf.task_acks_late, conf.task_ignore_result, conf.worker_disable_prefetch) == (False, True, True)
    assert conf.accept_content == ["json"]
    assert conf.worker_cancel_long_running_tasks_on_connection_loss is False
    assert conf.broker_transport_options["priority_steps"] == list(range(10))
    assert conf.beat_schedule["sweep"]["schedule"] == settings.sweep_seconds


def test_unreachable_broker_is_reported_within_a_second(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    away = HintSender(_settings("redis://127.0.0.1:9/0"))
    started = time.perf_counter()
    assert away.send("cpu", uuid4(), 5) is False
    assert time.perf_counter() - started < 2.0
    assert "waits for the sweep" in caplog.text
    assert away.send("control", uuid4(), 5) is False
    away.clear_pending(uuid4())
    away.close()


def test_hanging_broker_is_reported_within_seconds(silent: str) -> None:
    sender = HintSender(_settings(silent))
    started = time.perf_counter()
    assert sender.send("cpu", uuid4(), 5) is False
    assert time.perf_counter() - started < 12.0
    sender.close()


def test_sender_survives_a_restart_of_the_broker(tmp_path_factory: pytest.TempPathFactory) -> None:
    import shutil
    import tempfile
    from pathlib import Path

    var = Path(tempfile.mkdtemp(prefix="atft-test-"))
    var.chmod(0o755)
    with embedded.start(var) as servers:
        sender = HintSender(_settings(servers.redis_url))
        assert sender.send("cpu", uuid4(), 5)
        servers.valkey.stop()
        assert sender.send("cpu", uuid4(), 5) is False
        servers.check()
        assert sender.send("cpu", uuid4(), 5)
        sender.close()
        asyncio.run(_notifications_through_a_restart(servers))
    shutil.rmtree(var)


async def _wait_for_event(event: asyncio.Event, publish_again: Callable[[], None] | None = None) -> None:
    async with asyncio.timeout(10):
        while not event.is_set():
            if publish_again is not None:
                publish_again()
            await asyncio.sleep(0.02)
    event.clear()


async def _notifications_through_a_restart(servers: embedded.EmbeddedServers) -> None:
    settings = _settings(servers.redis_url)
    client = redis_client(settings)
    job_id = uuid4()
    async with PubSub(settings) as pubsub:
        with pubsub.listen(job_id) as event:
            await _wait_for_event(event)  # subscribed: every waiter is notified once
            await _wait_for_event(event, lambda: publish(client, job_id))
            servers.valkey.stop()
            publish(client, job_id)  # the broker is down: logged, no error
            servers.check()
            await _wait_for_event(event)  # reconnected: notified, since messages may have been missed
            await _wait_for_event(event, lambda: publish(client, job_id))
    client.close()


async def _fan_out(settings: Settings) -> None:
    client = async_redis_client(settings)
    mine, other = uuid4(), uuid4()
    async with PubSub(settings) as pubsub:
        with pubsub.listen(mine) as first, pubsub.listen(mine, other) as both, pubsub.listen(other) as second:
            await _wait_for_event(second)
            first.clear()
            both.clear()
            await apublish(client, mine)
            await _wait_for_event(first)
            assert both.is_set()
            assert not second.is_set()
            pubsub.wake_all()
            assert second.is_set()
        assert not pubsub._listeners
    await client.aclose()


def test_published_messages_reach_only_the_subscribers_of_the_job(settings: Settings) -> None:
    asyncio.run(_fan_out(settings))


def test_publish_to_a_silent_redis_gives_up_soon(silent: str, caplog: pytest.LogCaptureFixture) -> None:
    client = redis_client(_settings(silent))
    started = time.perf_counter()
    publish(client, UUID(int=1))
    assert time.perf_counter() - started < 5.0
    assert "could not notify" in caplog.text
    client.close()
