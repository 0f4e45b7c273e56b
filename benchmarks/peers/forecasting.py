"""pytorch-forecasting's TimeSeriesDataSet through its own loader, on 50 of the stocks: setup on all takes minutes, and
the cost per sample does not depend on their number.
"""

import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytorch_forecasting
import torch
from pytorch_forecasting import TimeSeriesDataSet
from serve import WINDOW, panel, serve

STOCKS, BATCH = 50, 1000


def batches(folder: str) -> Iterator[tuple[int, torch.Tensor]]:
    warnings.simplefilter("ignore")
    values = panel(folder)[:STOCKS]
    codes, num_days, width = values.shape
    names = [f"f{j:03d}" for j in range(width)]
    frame = pd.DataFrame(values.reshape(-1, width), columns=names)
    code, day = np.repeat(np.arange(codes), num_days).astype(str), np.tile(np.arange(num_days), codes)
    data = TimeSeriesDataSet(
        frame.assign(code=code, day=day, y=0.0),
        time_idx="day",
        target="y",
        group_ids=["code"],
        min_encoder_length=WINDOW,
        max_encoder_length=WINDOW,
        min_prediction_length=1,
        max_prediction_length=1,
        time_varying_unknown_reals=names,
        scalers=dict.fromkeys(names),
        target_normalizer=None,
    )
    loader = data.to_dataloader(train=True, batch_size=BATCH, num_workers=0)
    first = True
    while True:
        for x, _ in loader:
            batch = x["encoder_cont"]
            if first:
                end = int(x["decoder_time_idx"][0, 0])
                assert any(np.array_equal(batch[0].numpy(), stock[end - WINDOW : end]) for stock in values)
                first = False
            yield len(batch), batch


if __name__ == "__main__":
    serve(batches(sys.argv[1]), pytorch_forecasting=pytorch_forecasting.__version__, pandas=pd.__version__)
