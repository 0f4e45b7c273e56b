"""torch.utils.data.DataLoader over windows of an array in memory, a day's stocks per batch, with N workers."""

import sys
from collections.abc import Iterator

import numpy as np
import torch
from serve import WINDOW, days, panel, serve
from torch.utils.data import DataLoader, Dataset


class Windows(Dataset[torch.Tensor]):
    def __init__(self, values: np.ndarray) -> None:
        self.values = torch.from_numpy(values)

    def __getitem__(self, at: tuple[int, int]) -> torch.Tensor:
        code, day = at
        return self.values[code, day - WINDOW + 1 : day + 1]


class Days:
    def __init__(self, codes: int, num_days: int) -> None:
        self.codes, self.num_days = codes, num_days

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for day in days(self.num_days):
            yield [(code, day) for code in range(self.codes)]


def batches(folder: str, workers: int) -> Iterator[tuple[int, torch.Tensor]]:
    values = panel(folder)
    sampler = Days(*values.shape[:2])
    for batch in DataLoader(Windows(values), batch_sampler=sampler, num_workers=workers):  # type: ignore[arg-type]
        yield len(batch), batch


if __name__ == "__main__":
    serve(batches(sys.argv[1], int(sys.argv[2])))
