"""Stateless seeds, thread limits, and a record of the thread variables in the environment (never applied)."""

import os
import random
from collections.abc import Mapping

import numpy as np
import torch

from atft.spec.base import mix

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "ARROW_NUM_THREADS",
    "ARROW_IO_THREADS",
    "TOKENIZERS_PARALLELISM",
    "MALLOC_ARENA_MAX",
)


def seed_everything(seed: int) -> None:
    """Seed torch, and also `random` and NumPy's global generator, which libraries may use."""
    mixed = mix(seed)
    torch.manual_seed(mixed)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)


def limit_threads(threads: int) -> None:
    """Give torch `threads` threads inside an operation and one between operations.

    Raises RuntimeError when parallel work has already started with another number of inter-op threads.
    """
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)


def thread_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str | None]:  # noqa: TID251 - evidence: shows what the process was given, sets nothing
    """The thread variables this process was started with; null means unset."""
    return {name: environment.get(name) for name in THREAD_VARIABLES}
