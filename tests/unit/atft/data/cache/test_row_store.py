"""Resident rows equal mapped ones, and rows that do not fit stay mapped; on the CPU, with the same code as on a GPU."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from atft.data.cache.batch import Batch
from atft.data.cache.reader import Cache
from atft.data.cache.row_store import copy_windows, device_budget
from atft.data.cache.windows import DayReader
from atft.spec.data import DataSpec

CPU = torch.device("cpu")
DAYS = np.arange(30, 60)
PLENTY = 2**30


def reader(cache: Cache, **changes: object) -> DayReader:
    data = DataSpec.model_validate({"window": 20, "horizons": (1, 5), "min_names": 5} | changes)
    return DayReader(cache, data, None, CPU)


def assert_equal(a: Batch, b: Batch) -> None:
    for field in fields(Batch):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        else:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("features", [None, ("volume_20", "return_5")])
def test_resident_batches_are_the_mapped_ones_bit_for_bit(cache: Cache, features: tuple[str, ...] | None) -> None:
    mapped, resident = reader(cache, features=features), reader(cache, features=features)
    shares: list[float] = []
    resident.make_resident(DAYS, allow_bfloat16=False, budget_bytes=PLENTY, on_progress=shares.append)
    assert (mapped.row_store.kind, resident.row_store.kind, resident.row_store.dtype) == (
        "mapped",
        "resident",
        torch.float32,
    )
    assert shares[-1] == 1.0
    for days in (DAYS[:1], DAYS[5:9], DAYS[-3:]):
        assert_equal(resident.batch(days), mapped.batch(days))


def test_a_panel_of_many_chunks_is_copied_whole(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atft.data.cache.row_store.CHUNK_BYTES", 4000)
    resident, shares = reader(cache), list[float]()
    resident.make_resident(DAYS, allow_bfloat16=False, budget_bytes=PLENTY, on_progress=shares.append)
    assert len(shares) > 10
    assert shares == sorted(shares)
    assert_equal(resident.batch(DAYS), reader(cache).batch(DAYS))


def test_bfloat16_is_within_its_rounding_and_comes_as_float32(cache: Cache) -> None:
    mapped, resident = reader(cache), reader(cache)
    rows = len(np.unique(np.concatenate([mapped.batch(DAYS).rows - k for k in range(20)])))
    whole = rows * mapped.num_features * 4
    resident.make_resident(DAYS, allow_bfloat16=True, budget_bytes=whole - 1)
    assert (resident.row_store.kind, resident.row_store.dtype) == ("resident", torch.bfloat16)
    want, got = mapped.batch(DAYS[:4]).x, resident.batch(DAYS[:4]).x
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=2**-8, atol=0)
    assert not torch.equal(got, want)


def test_the_row_store_fits_the_budget_to_the_byte(cache: Cache) -> None:
    mapped = reader(cache)
    rows = len(np.unique(np.concatenate([mapped.batch(DAYS).rows - k for k in range(20)])))
    whole = rows * mapped.num_features * 4
    for budget, half, kind, dtype in (
        (whole, True, "resident", torch.float32),
        (whole - 1, False, "mapped", torch.float32),
        (whole // 2, True, "resident", torch.bfloat16),
        (whole // 2 - 1, True, "mapped", torch.float32),
        (0, True, "mapped", torch.float32),
    ):
        read = reader(cache)
        read.make_resident(DAYS, allow_bfloat16=half, budget_bytes=budget)
        assert (read.row_store.kind, read.row_store.dtype) == (kind, dtype), budget
        assert read.batch(DAYS[:2]).x.shape == mapped.batch(DAYS[:2]).x.shape


def test_on_the_cpu_rows_stay_mapped(cache: Cache) -> None:
    assert device_budget(CPU) == 0
    read = reader(cache)
    read.make_resident(DAYS, allow_bfloat16=True)
    assert read.row_store.kind == "mapped"


def test_days_that_were_not_copied_are_refused(cache: Cache) -> None:
    read = reader(cache)
    read.make_resident(DAYS, allow_bfloat16=False, budget_bytes=PLENTY)
    with pytest.raises(IndexError, match="is not resident"):
        read.batch(np.array([70]))


def test_copied_windows_equal_gathered_ones(cache: Cache) -> None:
    names = cache.feature_names
    batch = reader(cache, features=names).batch(DAYS[:5])
    got = copy_windows(cache.features, batch.rows, 20)
    np.testing.assert_array_equal(got, batch.x[batch.windows].numpy())
    for columns in (names, names[:2], None):  # contiguous rows, selected columns, with market columns
        mapped, resident = reader(cache, features=columns), reader(cache, features=columns)
        resident.make_resident(DAYS, allow_bfloat16=False, budget_bytes=PLENTY)
        batch = mapped.batch(DAYS[:5])
        for read in (mapped, resident):
            assert torch.equal(read.windows(DAYS[:5]), batch.x[batch.windows])
    for rows in (np.array([18]), np.array([len(cache.features)])):
        with pytest.raises(IndexError, match="must end at rows 19 to"):
            copy_windows(cache.features, rows, 20)
