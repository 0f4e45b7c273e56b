"""The peer of bench_study.py: trainings one after the other in one process, without a service.

    python benchmarks/peers/bare_loop.py SPECS.json --cache DIR --out DIR

Prints a JSON line: the seconds and CPU seconds of the imports, and of each training.
"""

import argparse
import json
import time
from pathlib import Path

began, cpu_began = time.perf_counter(), time.process_time()

from atft.data.cache.reader import Cache  # noqa: E402 - their seconds are measured
from atft.events import Finished  # noqa: E402
from atft.spec.job import TrainSpec  # noqa: E402
from atft.train.loop import train  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("specs", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    marks = [(began, cpu_began), (time.perf_counter(), time.process_time())]
    for number, body in enumerate(json.loads(options.specs.read_text())):
        spec, cache = TrainSpec.model_validate(body), Cache.open(options.cache)
        last = train(spec, cache, options.out / str(number), lambda _: None, lambda: False, test=False)
        if not isinstance(last, Finished):
            raise SystemExit(f"training {number} ended with {last}")
        marks.append((time.perf_counter(), time.process_time()))
    laps = [
        [round(now - then, 4) for now, then in zip(*pair, strict=True)] for pair in zip(marks[1:], marks, strict=False)
    ]
    print(json.dumps({"imports": laps[0], "trainings": laps[1:]}))


if __name__ == "__main__":
    main()
