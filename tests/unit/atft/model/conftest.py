"""A small batch: a few consecutive days of the same stocks, a ring of neighbours within each day."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from atft.data.cache.batch import Batch

MakeBatch = Callable[..., Batch]


@pytest.fixture
def make_batch() -> MakeBatch:
    def make(
        *, days: int = 2, names: int = 6, window: int = 8, features: int = 5, horizons: int = 2, seed: int = 0
    ) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        span = days + window - 1
        stock = torch.arange(names)
        windows = torch.cat([stock[:, None] * span + torch.arange(window) + day for day in range(days)])
        ring = torch.stack([torch.cat([stock, (stock + 1) % names]), torch.cat([(stock + 1) % names, stock])])
        edges = torch.cat([ring + day * names for day in range(days)], dim=1)
        targets = torch.randn(days * names, horizons, generator=generator)
        return Batch(
            x=torch.randn(names * span, features, generator=generator),
            windows=windows,
            targets=targets,
            labels=targets,
            ranks=targets,
            ranked=torch.ones(days * names, dtype=torch.bool),
            day=torch.arange(days).repeat_interleave(names),
            num_days=days,
            edges=edges,
            edge_attributes=torch.rand(edges.shape[1], 4, generator=generator),
            day_numbers=np.arange(days),
            rows=np.arange(days * names),
        )

    return make
