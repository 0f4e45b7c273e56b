"""One Parquet file per stock, opened and read for each sample, as in the system that this one replaces."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch
from serve import WINDOW, days, panel, serve

STOCKS = 16  # windows per batch: a day's thousand would take too long at this speed


def batches(folder: str, files: Path) -> Iterator[tuple[int, torch.Tensor]]:
    values = panel(folder)
    names = [f"f{j:03d}" for j in range(values.shape[2])]
    if not (files / "done").exists():
        files.mkdir(parents=True, exist_ok=True)
        for code, rows in enumerate(values):
            pl.DataFrame(rows, schema=names).write_parquet(files / f"{code:04d}.parquet")
        (files / "done").touch()
    rng = np.random.default_rng(1)
    for day in days(values.shape[1]):
        parts = [
            pl.read_parquet(files / f"{code:04d}.parquet").slice(day - WINDOW + 1, WINDOW).to_numpy()
            for code in rng.integers(0, len(values), STOCKS)
        ]
        batch = torch.from_numpy(np.stack(parts))
        yield len(batch), batch


if __name__ == "__main__":
    serve(batches(sys.argv[1], Path(sys.argv[2])), polars=pl.__version__)
