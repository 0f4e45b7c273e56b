"""The measuring loop of every contender of bench_reader.py: wait for a command, read batches, count the windows.

A contender is a separate process. It prints its versions when ready, then for each line `SECONDS` on standard input
reads batches for that long and prints one JSON line. A batch counts once the consumer has copied it into its own
buffer, as a transfer to a device would. Needs NumPy, torch and pyarrow only: it runs in the peers' environments.
"""

import json
import os
import sys
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

WINDOW = 60


def panel(folder: str) -> np.ndarray:
    """Features [codes, days, features] of a cache in which every code has every day."""
    with pa.memory_map(f"{folder}/panel.arrow") as file:
        batch = pa.ipc.open_file(file).get_batch(0)
        codes, column = len(batch.column("code").dictionary), batch.column("features")
        values = column.values.to_numpy().reshape(codes, len(column) // codes, -1)
        return np.array(values)  # a copy in memory, as the peers need it


def days(num_days: int) -> Iterator[int]:
    """An endless iterator of shuffled days that have a full window, the same for every contender."""
    rng = np.random.default_rng(0)
    while True:
        yield from (int(day) for day in rng.permutation(np.arange(WINDOW - 1, num_days)))


def serve(batches: Iterator[tuple[int, torch.Tensor]], **about: object) -> None:
    """Run the measuring loop; `batches` yields (number of windows, tensor)."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print
    buffer = torch.empty(0)
    next(batches)  # one-time initialisation is not counted
    print(json.dumps({"torch": torch.__version__, "numpy": np.__version__, **about}), file=out)
    for line in sys.stdin:
        seconds, windows, size, count = float(line), 0, 0, 0
        start, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - start < seconds:
            number, batch = next(batches)
            if buffer.numel() < batch.numel():
                buffer = torch.empty(batch.numel(), dtype=batch.dtype, device=batch.device)
            buffer[: batch.numel()].copy_(batch.reshape(-1))
            windows, size, count = windows + number, size + batch.numel() * 4, count + 1
        if buffer.is_cuda:
            torch.cuda.synchronize()
        took = time.perf_counter() - start
        report = {"windows": windows, "bytes": size, "batches": count, "seconds": took}
        print(json.dumps(report | {"cpu_seconds": time.process_time() - cpu}), file=out)
