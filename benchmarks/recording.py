"""A worker's writes to the record while load.py measures: metric events, as worker/attempt/recorder.py writes them,
and wake-ups of the viewers. A program: settings from the environment, one JSON line out.

    python benchmarks/recording.py --jobs ID --seconds 5              # as fast as it goes
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
    def __init__(self, names: list[str]) -> None:
        settings = Settings()
        self._names = names
        self._engine = sync_engine(settings)
        self._sessions = sync_sessions(self._engine)
        self._redis = redis_client(settings)
        self.latencies: list[float] = []

    def write_event(self, job_id: UUID, child_seq: int) -> None:
        """One event with a value of each name."""
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
    parser.add_argument("--rate", type=float, help="events a second; without it, as many as go")
    parser.add_argument("--first", type=int, default=1, help="the first child_seq: higher than any of a run before")
    parser.add_argument("--at", type=float, help="when to begin, in seconds since 1970: for several at once")
    options = parser.parse_args()
    recording = Recording(options.names)
    if options.at is not None:
        if time.time() > options.at:
            parser.error("the start took longer than until --at")
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
