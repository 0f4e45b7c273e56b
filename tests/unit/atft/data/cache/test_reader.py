"""The cache's files, as any Arrow reader sees them, and our mapped reader."""

import json
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from atft.checksums import sha256_of
from atft.data.builder.run import BuildResult
from atft.data.cache.reader import Cache, CacheError, CacheMismatch
from atft.spec.data import PlantedSpec

Builder = Callable[..., tuple[Cache, BuildResult]]


def plain(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_file(file)
        assert reader.num_record_batches == 1
        return reader.read_all()


def test_plain_pyarrow_opens_the_panel(cache: Cache) -> None:
    table = plain(cache.path / "panel.arrow")
    F, H = len(cache.feature_names), len(cache.horizons)
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == {
        "date": pa.date32(),
        "code": pa.dictionary(pa.int32(), pa.string()),
        "sector": pa.dictionary(pa.int32(), pa.string()),
        "valid": pa.bool_(),
        "in_universe": pa.bool_(),
        "features": pa.list_(pa.float32(), F),
        "targets": pa.list_(pa.float32(), H),
        "returns": pa.float32(),
        "beta": pa.float32(),
    }
    table.validate(full=True)
    keys = list(zip(table["code"].to_pylist(), table["date"].to_pylist(), strict=True))
    assert keys == sorted(set(keys))
    assert table["features"].null_count == table["targets"].null_count == 0
    assert table["sector"].null_count == 90  # B13 has no sector
    metadata = json.loads(table.schema.metadata[b"atft"])
    manifest = json.loads((cache.path / "manifest.json").read_text())
    assert {
        "format_version",
        "feature_names",
        "horizons",
        "source_sha256",
        "build_spec",
        "fingerprint",
        "num_days",
        "num_codes",
        "calendar",
        "normalisation",
    } <= set(metadata)
    assert metadata == {k: v for k, v in manifest.items() if k != "files"}
    for name, entry in manifest["files"].items():
        assert entry == {"sha256": sha256_of(cache.path / name), "size_bytes": (cache.path / name).stat().st_size}
    assert pl.read_ipc(cache.path / "panel.arrow", columns=["date", "code", "sector", "targets"]).height == len(
        cache.valid
    )


def test_buffers_are_uncompressed_and_aligned(cache: Cache) -> None:
    raw = (cache.path / "panel.arrow").read_bytes()
    at = raw.find(np.ascontiguousarray(cache.features).tobytes())
    assert at > 0
    assert at % 8 == 0


def test_days_and_market_files(cache: Cache) -> None:
    panel, days = plain(cache.path / "panel.arrow"), plain(cache.path / "days.arrow")
    dates = panel["date"].to_pylist()
    for day, rows in zip(days["date"].to_pylist(), days["rows"].to_pylist(), strict=True):
        assert rows == [r for r, d in enumerate(dates) if d == day]
    market = plain(cache.path / "market.arrow")
    assert market.schema.names == ["date", *cache.market_names]
    assert market["date"].to_pylist() == days["date"].to_pylist()
    assert cache.market.shape == (90, len(cache.market_names))
    np.testing.assert_array_equal(cache.market[:, 0], market.column(1).to_numpy())


def test_reader_agrees_with_plain_arrow(cache: Cache) -> None:
    table = plain(cache.path / "panel.arrow")
    np.testing.assert_array_equal(cache.features, np.array(table["features"].to_pylist(), np.float32))
    np.testing.assert_array_equal(cache.targets, np.array(table["targets"].to_pylist(), np.float32))
    np.testing.assert_array_equal(cache.days[cache.day_index].astype(object), table["date"].to_pylist())
    assert [cache.codes[i] for i in cache.code_index] == table["code"].to_pylist()
    assert [None if i < 0 else cache.sectors[i] for i in cache.sector_index] == table["sector"].to_pylist()
    assert cache.valid.tolist() == table["valid"].to_pylist()
    for c in range(len(cache.codes)):
        part = slice(cache.code_offsets[c], cache.code_offsets[c + 1])
        assert set(cache.code_index[part]) == {c}
        assert np.all(np.diff(cache.day_index[part]) == 1)  # every trading day of the span has a row
    for day in (0, 41, 89):
        rows = cache.day_rows[cache.day_offsets[day] : cache.day_offsets[day + 1]]
        assert rows.tolist() == np.flatnonzero(cache.day_index == day).tolist()


def test_mapped_without_copies_and_without_warnings(cache: Cache) -> None:
    before = sha256_of(cache.path / "panel.arrow")
    again = Cache.open(cache.path)
    assert not again.features.flags.owndata
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = torch.from_numpy(again.features)
    tensor[0, 0] = 123.0  # a private map: the file keeps its content
    assert sha256_of(cache.path / "panel.arrow") == before
    assert Cache.open(cache.path).features[0, 0] != 123.0


def test_pain_03_handle_pickles_as_path_and_fingerprint(cache: Cache) -> None:
    pickled = pickle.dumps(cache)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).features, cache.features)


def test_pain_17_another_fingerprint_is_refused(cache: Cache) -> None:
    with pytest.raises(CacheMismatch, match="not 0123"):
        Cache.open(cache.path, "0123")


@pytest.mark.parametrize("name", ["panel.arrow", "days.arrow", "market.arrow"])
def test_cut_or_missing_files_are_refused(cache: Cache, folder: Path, name: str) -> None:
    shutil.copytree(cache.path, folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])
    with pytest.raises(CacheError, match=f"{name}.*cut short"):
        Cache.open(folder)
    (folder / name).unlink()
    with pytest.raises(CacheError, match=f"{name}.*missing"):
        Cache.open(folder)


def test_other_format_and_foreign_files_are_refused(cache: Cache, planted: Cache, folder: Path) -> None:
    with pytest.raises(CacheError, match="no cache"):
        Cache.open(folder)
    shutil.copytree(cache.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    shutil.copy(planted.path / "panel.arrow", folder)
    manifest["files"]["panel.arrow"]["size_bytes"] = (folder / "panel.arrow").stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CacheMismatch, match="does not belong"):
        Cache.open(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(CacheError, match="format 99"):
        Cache.open(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(CacheError, match="manifest"):
        Cache.open(folder)


def test_verify_finds_a_changed_byte(cache: Cache, folder: Path) -> None:
    cache.verify()
    shutil.copytree(cache.path, folder)
    body = bytearray((folder / "panel.arrow").read_bytes())
    body[len(body) // 2] ^= 1
    (folder / "panel.arrow").write_bytes(body)
    with pytest.raises(CacheError, match=r"panel\.arrow.*changed"):
        Cache.open(folder).verify()


def test_oracle_file(planted: Cache) -> None:
    table = plain(planted.path / "oracle.arrow")
    assert table.schema.names == ["true", "observed"]
    assert table.schema.types == [pa.list_(pa.float32(), 2)] * 2
    assert table.num_rows == len(planted.valid)
    assert planted.oracle is not None
    np.testing.assert_array_equal(planted.oracle["observed"], np.array(table["observed"].to_pylist(), np.float32))


def test_pain_22_many_handles_share_the_files_pages(builder: Builder) -> None:
    """Reading every value through four handles takes address space, not memory of our own."""
    cache, _ = builder(planted=PlantedSpec(num_codes=120, num_days=300, num_features=128, seed=1))
    size = cache.features.nbytes

    def anonymous() -> int:
        rollup = Path("/proc/self/smaps_rollup").read_text()
        return 1024 * int(re.search(r"^Anonymous:\s+(\d+) kB", rollup, re.MULTILINE)[1])  # type: ignore[index]

    float(cache.features.sum())
    before = anonymous()
    others = [Cache.open(cache.path), *(pickle.loads(pickle.dumps(cache)) for _ in range(3))]
    sums = {float(other.features.sum()) for other in others}
    assert sums == {float(cache.features.sum())}
    assert size > 15e6
    assert anonymous() - before < size / 2
