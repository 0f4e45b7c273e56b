"""Qlib's TSDataSampler, read with a list of indices for a day's stocks, which is its fastest access."""

import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
import qlib
import torch
from qlib.data.dataset import TSDataSampler
from serve import WINDOW, days, panel, serve


def batches(folder: str) -> Iterator[tuple[int, torch.Tensor]]:
    values = panel(folder)
    codes, num_days, width = values.shape
    dates = pd.bdate_range("2010-01-04", periods=num_days)
    index = pd.MultiIndex.from_product([dates, [f"P{c:04d}" for c in range(codes)]], names=["datetime", "instrument"])
    frame = pd.DataFrame(values.transpose(1, 0, 2).reshape(-1, width), index=index)
    sampler = TSDataSampler(frame, dates[0], dates[-1], step_len=WINDOW)
    first = np.asarray(sampler[int(5 * num_days + WINDOW)])  # its samples are ordered by stock
    assert np.array_equal(first, values[5, 1 : WINDOW + 1])
    for day in days(num_days):
        batch = torch.from_numpy(sampler[list(range(day, codes * num_days, num_days))])
        yield len(batch), batch


if __name__ == "__main__":
    serve(batches(sys.argv[1]), pyqlib=qlib.__version__, pandas=pd.__version__)
