"""Our reader in three forms: `windows` (each window copied, as the peers do), `shared` (the rows of 4 days once, as in
training), and `memcpy`, the baseline: the same bytes copied in memory.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from serve import WINDOW, days, serve

from atft.data.cache.reader import Cache
from atft.data.cache.windows import DayReader
from atft.spec.data import DataSpec

SHARED_DAYS = 4


def batches(form: str, folder: str, device: torch.device) -> Iterator[tuple[int, torch.Tensor]]:
    reader = DayReader(Cache.open(Path(folder)), DataSpec(window=WINDOW), None, device)
    num_days = len(reader.cache.days)
    if device.type == "cuda":
        reader.make_resident(np.arange(num_days), allow_bfloat16=False)
    else:  # the peers copied the panel into memory before the measurement; ours is mapped, so touch each page once
        float(reader.cache.features[:, 0].sum())
    block = reader.windows(np.array([WINDOW]))
    for day in days(num_days):
        if form == "memcpy":
            yield len(block), block  # the consumer's own copy is the memcpy
        elif form == "windows":
            values = reader.windows(np.array([day]))
            yield len(values), values
        else:
            run = np.arange(max(WINDOW - 1, day - SHARED_DAYS + 1), day + 1)
            batch = reader.batch(run)
            yield len(batch.rows), batch.x


if __name__ == "__main__":
    serve(batches(sys.argv[1], sys.argv[2], torch.device(sys.argv[3])))
