"""Writing of the feature matrix: scores equal slow recomputation, block sizes do not matter, and a build that is
cancelled or fails leaves no files.
"""

import os
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from atft.data.builder import crosssection, matrix_writer
from atft.data.builder import run as building
from atft.data.builder.crosssection import CrossSection
from atft.data.builder.run import BuildStopped, build
from atft.data.cache.reader import Cache
from atft.data.panel import survey
from atft.data.panel.source import load
from atft.data.read import tables
from atft.data.schema import DataError
from atft.events import Event, Progress
from atft.spec.data import DatasetSpec
from atft.spec.reason import Reason
from tests.unit.atft.disk import largest_file

COUNTS = (7, 1, 6, 2, 40, 7, 7, 3)  # stocks of each day


def slow_scores(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The robust z-scores of one day, straight from their definition."""
    known = np.isfinite(values)
    used = values[known & valid].astype(np.float64)
    if not len(used):
        return np.zeros(len(values))
    centre = np.median(used)
    scale = 1.4826 * np.median(np.abs(used - centre))
    scale = scale if scale > 1e-12 else used.std()
    if scale <= 1e-12:
        return np.zeros(len(values))
    return np.where(known, np.clip((np.where(known, values, 0) - centre) / scale, -5, 5), 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("chunk", [1, 50, 1 << 20])
@pytest.mark.parametrize("kind", ["full", "gaps", "ties", "flat", "infinite", "all missing"])
def test_scores_equal_slow_recomputation(
    monkeypatch: pytest.MonkeyPatch, dtype: type[np.floating], chunk: int, kind: str
) -> None:
    monkeypatch.setattr(crosssection, "CHUNK_CELLS", chunk)
    monkeypatch.setattr(crosssection, "SPARE_CELLS", max(1, chunk // 4))
    rng = np.random.default_rng(1)
    offsets = np.concatenate([[0], np.cumsum(COUNTS)])
    values = (100 + rng.standard_normal(offsets[-1]) ** 3).astype(dtype)
    if kind != "full":
        values[rng.random(len(values)) < 0.3] = np.nan
    if kind == "ties":
        values = np.round(values)
    if kind == "flat":
        values[rng.random(len(values)) < 0.8] = 7
    if kind == "infinite":
        values[rng.random(len(values)) < 0.2] = np.inf
    if kind == "all missing":
        values[offsets[4] : offsets[5]] = np.nan
    valid = np.ones(len(values), np.bool_) if kind == "full" else rng.random(len(values)) < 0.8
    want = np.concatenate([slow_scores(values[a:b], valid[a:b]) for a, b in pairwise(offsets)])
    columns = np.stack([values, -values])  # the scores are odd in the values
    got = np.empty(columns.shape, np.float32)
    CrossSection(offsets, valid).normalise(columns, got, finite=kind != "infinite")
    np.testing.assert_allclose(got, [want, -want], rtol=1e-6, atol=1e-7)
    if dtype is np.float32:
        CrossSection(offsets, valid).normalise(columns, columns)
        np.testing.assert_array_equal(columns, got)


def test_values_beyond_float32_are_clipped() -> None:
    values = np.array([[0.0, 1.0, 2.0, 3.0, 1e300, -1e300]])
    valid = np.arange(6) < 4  # the others are scored by these
    out = np.empty(values.shape, np.float32)
    CrossSection(np.array([0, 6]), valid).normalise(values, out)
    assert out[0, 4:].tolist() == [5.0, -5.0]


@pytest.fixture(scope="module")
def ready(prices: pl.DataFrame) -> pl.DataFrame:
    """Features of many types beside the prices, shuffled."""
    rng = np.random.default_rng(4)
    n = prices.height
    more = {f"x{j}": pl.Series(rng.standard_normal(n), dtype=pl.Float32 if j % 2 else pl.Float64) for j in range(7)}
    return prices.with_columns(
        **more,
        count=pl.Series(rng.integers(0, 50, n), dtype=pl.Int16),
        flag=pl.Series(rng.random(n) < 0.5),
        words=pl.Series([str(v) for v in np.round(rng.standard_normal(n), 3)]),
        gaps=pl.Series([None if v < 0.2 else v for v in rng.random(n)]),
        money=pl.Series(rng.integers(100, 9999, n)).cast(pl.Decimal(12, 2)),
        fear=pl.col("date").dt.ordinal_day().cast(pl.Float64) % 7,
    ).sample(fraction=1.0, shuffle=True, seed=3)


def built(path: Path, out: Path, **settings: object) -> Cache:
    spec = DatasetSpec.model_validate({"name": "x", "path": str(path), "horizons": (1, 5), **settings})
    build(spec, out, lambda _: None, lambda: False)
    return Cache.open(out)


@pytest.mark.parametrize("group_rows", [1, 1 << 20])  # whole row groups, and batches
@pytest.mark.parametrize(
    ("order", "build_features"), [([], True), (["code", "date"], False), (["date"], True), (["date"], False)]
)
def test_blocks_of_any_size_make_the_same_cache(
    ready: pl.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    order: list[str],
    build_features: bool,
    group_rows: int,
) -> None:
    (ready.sort(order) if order else ready).write_parquet(tmp_path / "p.parquet", row_group_size=300)
    whole = built(tmp_path / "p.parquet", tmp_path / "a", build_features=build_features)
    for module, name, value in (
        (matrix_writer, "NORMALISED_BYTES", 20_000),
        (matrix_writer, "RAW_BYTES", 11_000),
        (matrix_writer, "BLOCK_BYTES", 9_000),
        (matrix_writer, "BLOCK_ROWS", 250),
        (matrix_writer, "TILE_ROWS", 190),
        (matrix_writer, "TILE_COLUMNS", 3),
        (matrix_writer, "TILES", 2),
        (survey, "COLUMN_GROUP", 2),
        (survey, "COMPARED_ROWS", 7),
        (tables, "BATCH_ROWS", 170),
        (tables, "GROUP_ROWS", group_rows),
    ):
        monkeypatch.setattr(module, name, value)
    parts = built(tmp_path / "p.parquet", tmp_path / "b", build_features=build_features)
    assert parts.manifest == whole.manifest  # the files' hashes among it
    assert set(whole.market_names) >= {"fear"}
    own = {"x0", "x1", "count", "flag", "words", "gaps", "money"}
    assert own < set(whole.feature_names)


@pytest.mark.parametrize("order", [[], ["code", "date"], ["date"]])
def test_every_column_of_the_file_equals_slow_recomputation(
    ready: pl.DataFrame, tmp_path: Path, order: list[str]
) -> None:
    (ready.sort(order) if order else ready).write_parquet(tmp_path / "p.parquet")
    cache = built(tmp_path / "p.parquet", tmp_path / "a", build_features=False)
    frame = ready.sort("code", "date").with_columns(
        pl.col("words", "money", "flag").cast(pl.Float64), row=pl.int_range(pl.len())
    )
    rows = {(c, d): r for c, d, r in frame.select("code", "date", "row").iter_rows()}
    days = cache.days.astype(object)
    for day in (0, 20, 41, 89):
        at = np.flatnonzero(cache.day_index == day)
        found = [rows.get((cache.codes[cache.code_index[r]], days[day])) for r in at]
        for j, name in enumerate(cache.feature_names):
            column = frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            values = np.array([np.nan if r is None else column[r] for r in found])
            np.testing.assert_allclose(
                cache.features[at, j], slow_scores(values, cache.valid[at]), rtol=1e-5, atol=1e-6, err_msg=name
            )


def test_only_roles_are_in_memory(ready: pl.DataFrame, tmp_path: Path) -> None:
    ready.write_parquet(tmp_path / "p.parquet")
    source = load(DatasetSpec(name="x", path=str(tmp_path / "p.parquet"), horizons=(1, 5)))
    assert all(c.startswith("@") for c in source.frame.columns)
    assert source.extra["gaps"].null_share == ready["gaps"].null_count() / ready.height
    assert source.extra["fear"].market_wide
    assert not source.extra["x0"].market_wide


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_build_can_be_cancelled_at_any_point(ready: pl.DataFrame, tmp_path: Path, form: str) -> None:
    getattr(ready, f"write_{form}")(tmp_path / "p")
    spec = DatasetSpec(name="x", path=str(tmp_path / "p"), horizons=(1, 5))
    calls, after = 0, 1

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls >= after

    stopped = 0
    while True:
        calls = 0
        try:
            build(spec, tmp_path / "out" / "cache", lambda _: None, stop)
        except BuildStopped:
            stopped += 1
            assert not list((tmp_path / "out").iterdir())
            after *= 2
        else:
            break
    assert stopped >= 4


@pytest.mark.parametrize("writer", ["create_panel_file", "write_side_files"])
def test_a_cancelled_build_waits_for_its_writers(
    ready: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    """Otherwise its folder would be removed while files are still written to it, and they would remain."""
    ready.write_parquet(tmp_path / "p")
    writing, cancelled, written = threading.Event(), threading.Event(), threading.Event()
    write = getattr(building, writer)

    def slow(*arguments: object) -> object:
        writing.set()
        assert cancelled.wait(20)
        time.sleep(0.1)  # a slow disk
        result = write(*arguments)
        written.set()
        return result

    def stop() -> bool:
        if writing.is_set():
            cancelled.set()
        return writing.is_set()

    monkeypatch.setattr(building, writer, slow)
    monkeypatch.setattr("atft.data.progress.POLL_SECONDS", 0.01)
    spec = DatasetSpec(name="x", path=str(tmp_path / "p"), horizons=(1, 5))
    with pytest.raises(BuildStopped):
        build(spec, tmp_path / "out" / "cache", lambda _: None, stop)
    assert written.is_set()
    assert not list((tmp_path / "out").iterdir())


def test_a_file_that_changes_during_the_build_is_refused(ready: pl.DataFrame, tmp_path: Path) -> None:
    ready.write_parquet(tmp_path / "p")
    spec = DatasetSpec(name="x", path=str(tmp_path / "p"), horizons=(1, 5))

    def touch(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "features":
            os.utime(tmp_path / "p", (1, 1))

    with pytest.raises(DataError, match="has changed while it was read"):
        build(spec, tmp_path / "out" / "cache", touch, lambda: False)
    assert not list((tmp_path / "out").iterdir())


def test_progress_reports_stage_rows_and_time_left(
    ready: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atft.data.progress.REPORT_SECONDS", 0.0)
    monkeypatch.setattr(tables, "BATCH_ROWS", 200)
    ready.write_parquet(tmp_path / "p")
    seen: list[Event] = []
    spec = DatasetSpec(name="x", path=str(tmp_path / "p"), horizons=(1, 5))
    build(spec, tmp_path / "cache", seen.append, lambda: False)
    reports = [e for e in seen if isinstance(e, Progress)]
    stages = list(dict.fromkeys(e.stage for e in reports))
    assert stages == [
        "reading",
        "looking at columns",
        "calendar and targets",
        "features",
        "hashing and screening",
        None,
    ]
    surveyed = [e.rows for e in reports if e.stage == "looking at columns" and e.rows is not None]
    assert surveyed == sorted(surveyed)
    assert {0, ready.height} <= set(surveyed)
    assert len(set(surveyed)) > 4
    assert all(e.num_rows == ready.height for e in reports if e.stage == "looking at columns")
    assert [e.ratio for e in reports] == sorted(e.ratio for e in reports)
    assert any(e.eta_seconds is not None for e in reports)


@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize("size", [100, 5_000, 100_000, 350_000])
def test_a_full_disk_leaves_no_trace(ready: pl.DataFrame, tmp_path: Path, form: str, size: int) -> None:
    getattr(ready, f"write_{form}")(tmp_path / "p")
    spec = DatasetSpec(name="x", path=str(tmp_path / "p"), horizons=(1, 5))
    full = pytest.raises(DataError, match=r"the disk is full.*free some space and submit again")
    with full as caught, largest_file(size):
        build(spec, tmp_path / "out" / "cache", lambda _: None, lambda: False)
    assert caught.value.reason == Reason.DISK_FULL
    assert not list((tmp_path / "out").iterdir())
