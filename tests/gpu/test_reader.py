"""Resident rows on a GPU: the same numbers, no synchronisation, and the fallback when the device is full."""

from pathlib import Path

import numpy as np
import pytest
import torch

from atft.data.builder.run import build
from atft.data.cache.reader import Cache
from atft.data.cache.row_store import device_budget
from atft.data.cache.windows import DayReader
from atft.spec.data import DatasetSpec, DataSpec, PlantedSpec

DATA = DataSpec(window=20, horizons=(1, 5), min_names=5)
DAYS = np.arange(40, 120)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder: Path = tmp_path_factory.mktemp("planted") / "cache"
    spec = DatasetSpec(name="gpu", horizons=(1, 5), planted=PlantedSpec(num_codes=100, num_days=150))
    build(spec, folder, lambda _: None, lambda: False)
    return Cache.open(folder)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", 0)


def test_resident_on_the_device_equals_the_map_on_the_host(cache: Cache, device: torch.device) -> None:
    mapped = DayReader(cache, DATA, None, torch.device("cpu"))
    resident = DayReader(cache, DATA, None, device)
    resident.make_resident(DAYS, allow_bfloat16=False)
    assert (resident.row_store.kind, resident.row_store.dtype) == ("resident", torch.float32)
    for days in (DAYS[:1], DAYS[10:14]):
        want, got = mapped.batch(days), resident.batch(days)
        assert got.x.device == device
        for name in ("x", "windows", "targets", "labels", "ranks", "ranked", "day"):
            torch.testing.assert_close(getattr(got, name).cpu(), getattr(want, name), rtol=0, atol=0, equal_nan=True)


def test_a_batch_does_not_wait_for_the_device(cache: Cache, device: torch.device) -> None:
    resident = DayReader(cache, DATA, None, device)
    resident.make_resident(DAYS, allow_bfloat16=False)
    resident.batch(DAYS[:4])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for start in range(0, 16, 4):
            resident.batch(DAYS[start : start + 4])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bfloat16_and_the_mapped_fallback(cache: Cache, device: torch.device) -> None:
    half, none = (DayReader(cache, DATA, None, device) for _ in range(2))
    bytes_half = len(cache.day_index) * half.num_features * 2
    half.make_resident(DAYS, allow_bfloat16=True, budget_bytes=bytes_half)
    none.make_resident(DAYS, allow_bfloat16=True, budget_bytes=1000)
    assert (half.row_store.dtype, none.row_store.kind) == (torch.bfloat16, "mapped")
    torch.testing.assert_close(half.batch(DAYS[:2]).x, none.batch(DAYS[:2]).x, rtol=2**-8, atol=0)


def test_the_budget_is_less_than_what_is_free(device: torch.device) -> None:
    free, total = torch.cuda.mem_get_info(device)
    assert 0 <= device_budget(device) <= max(0, free - total // 4)
