import time

import torch

from atft.spec.metric import EPOCH_PARTS
from atft.train.system_metrics import SystemSampler, Timers

CPU = torch.device("cpu")


def test_timers_add_up_move_and_start_again() -> None:
    timers = Timers(CPU)
    for _ in range(2):
        with timers("data"):
            time.sleep(0.01)
    timers.move(0.005, "data", "graph")
    taken = timers.take()
    assert set(taken) == {f"time/{part}_seconds" for part in EPOCH_PARTS}
    assert taken["time/data_seconds"] >= 0.015
    assert taken["time/graph_seconds"] == 0.005
    assert set(timers.take().values()) == {0.0}


def test_pain_44_resource_usage_is_sampled_more_than_once() -> None:
    with SystemSampler(CPU, threads=1) as sampler:
        start, used = time.monotonic(), time.process_time()
        while time.monotonic() < start + 1.2:
            sum(range(10000))
        share = (time.process_time() - used) / (time.monotonic() - start)  # less than 1 where others want the cores
        values = sampler.take()
    assert 0.3 * share < values["system/cpu_utilization_ratio"] < 2 * share + 0.2  # type: ignore[operator]
    assert values["system/rss_bytes"] > 1e7  # type: ignore[operator]
    assert values["system/rss_bytes_p95"] >= values["system/rss_bytes"] * 0.9  # type: ignore[operator]
    assert sampler.peak_threads >= 2
