import random

import numpy as np
import torch

from atft.spec.base import mix
from atft.train.seed import THREAD_VARIABLES, seed_everything, thread_environment


def test_mix_of_known_numbers_is_pinned() -> None:
    assert mix(0, 1, 2) == 6944296732933707688


def test_mix_separates_its_numbers_and_stays_in_range() -> None:
    seeds = {mix(seed, epoch, step) for seed in (0, 1, 2**31 - 1) for epoch in range(20) for step in range(20)}
    assert len(seeds) == 3 * 20 * 20
    assert mix(1, 23) != mix(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_pain_30_seeds_of_any_size_are_used_without_overflow() -> None:
    for seed in (0, 2**31 - 1, 2**63, 10**30):
        mixed = mix(seed, 10**6, 10**9)
        draws = []
        for _ in range(2):
            seed_everything(mixed)
            draws.append((torch.rand(3).tolist(), random.random(), float(np.random.rand())))
        assert draws[0] == draws[1]


def test_thread_environment_shows_what_is_set_and_what_is_not() -> None:
    shown = thread_environment({"OMP_NUM_THREADS": "1", "HOME": "/root"})
    assert shown["OMP_NUM_THREADS"] == "1"
    assert set(shown) == set(THREAD_VARIABLES)
    assert shown["MKL_NUM_THREADS"] is None
