"""Writes metric events for load.py as worker/attempt/recorder.py does, and notifies the streams that read them. A
program: reads its settings from the environment and prints one JSON line.

    python benchmarks/recording.py --jobs ID --seconds 5              # at the highest possible rate
    python benchmarks/recording.py --jobs ID... --seconds 5 --rate 100   # paced, in turn over the jobs
"""

import argparse
import itertools
import json
import time
from uuid import UUID

from atft.events import Metrics
from jobs.broker.pubsub import publish, redis_client
from jobs.db.session import sync_engine, sync_sessions, transaction
from jobs.record import history
from jobs.settings import Settings


class Recording:
    """Connections to Postgres and Valkey, and the latency of each written event."""

    def __init__(self, names: list[str]) -> None:
        settings = Settings()
        self._names = names
        self._engine = sync_engine(settings)
        self._sessions = sync_sessions(self._engine)
        self._redis = redis_client(settings)
        self.latencies: list[float] = []

    def write_event(self, job_id: UUID, child_seq: int) -> None:
        """Write one event with a value for each metric name, and notify."""
        start = time.perf_counter()
        values = dict.fromkeys(self._names, child_seq / 7) | {"bench/sent": time.time()}
        with transaction(self._sessions) as session:
            history.append(session, job_id, 1, [Metrics(child_seq=child_seq, step=child_seq, values=values)])
        publish(self._redis, job_id)
        self.latencies.append(time.perf_counter() - start)

    def close(self) -> None:
        self._redis.close()
        self._engine.dispose()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", nargs="+", type=UUID, required=True)
    parser.add_argument("--names", nargs="+", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, help="events a second (default: as many as possible)")
    parser.add_argument("--first", type=int, default=1, help="the first child_seq, higher than any of an earlier run")
    parser.add_argument("--at", type=float, help="Unix time at which to start, to start several processes together")
    options = parser.parse_args()
    recording = Recording(options.names)
    if options.at is not None:
        if time.time() > options.at:
            parser.error("--at has passed already")
        time.sleep(max(0.0, options.at - time.time()))
    start, cpu = time.perf_counter(), time.process_time()
    for number in itertools.count():
        due = time.perf_counter() if options.rate is None else start + number / options.rate
        if due >= start + options.seconds:
            break
        time.sleep(max(0.0, due - time.perf_counter()))
        turn, index = divmod(number, len(options.jobs))
        recording.write_event(options.jobs[index], options.first + turn)
    seconds, spent = time.perf_counter() - start, time.process_time() - cpu
    recording.close()
    print(json.dumps({"latencies": recording.latencies, "seconds": seconds, "cpu_seconds": spent}))


if __name__ == "__main__":
    main()
