"""The build's targets, features and universe equal slow recomputation from raw prices; its files are atomic."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from atft.data.builder.run import BuildResult, BuildStopped, build, inspect
from atft.data.cache.reader import Cache, CacheError, check_files
from atft.data.schema import DataError
from atft.events import Event, Progress
from atft.spec.data import DatasetSpec, SideFile
from atft.spec.reason import Reason

Builder = Callable[..., tuple[Cache, BuildResult]]
Table = dict[str, np.ndarray]


def filled(prices: pl.DataFrame, cache: Cache) -> dict[str, Table]:
    """Per code: day numbers of the listed span and its prices, halts repeating the last close with volume 0, in plain
    loops.
    """
    number = {d: n for n, d in enumerate(cache.days.astype(object))}
    result = {}
    for code in cache.codes:
        rows = {number[r["date"]]: r for r in prices.filter(pl.col("code") == code).iter_rows(named=True)}
        days = range(min(rows), max(rows) + 1)
        table: dict[str, list[float]] = {k: [] for k in ("day", "valid", "open", "high", "low", "close", "volume")}
        for d in days:
            last = table["close"][-1] if table["close"] else np.nan
            row = rows.get(d, {"open": last, "high": last, "low": last, "close": last, "volume": 0.0})
            for key in ("open", "high", "low", "close", "volume"):
                table[key].append(row[key])
            table["day"].append(d)
            table["valid"].append(d in rows)
        result[code] = {k: np.array(v) for k, v in table.items()}
    return result


def test_every_day_of_a_span_has_a_row_and_halts_are_invalid(cache: Cache, prices: pl.DataFrame) -> None:
    tables = filled(prices, cache)
    assert cache.day_index.tolist() == [int(d) for code in cache.codes for d in tables[code]["day"]]
    assert cache.valid.tolist() == [bool(v) for code in cache.codes for v in tables[code]["valid"]]
    assert (~cache.valid).sum() == 2
    assert not cache.in_universe.all() or cache.in_universe.all()


def test_targets_and_returns_equal_slow_recomputation(cache: Cache, prices: pl.DataFrame) -> None:
    want, returns = [], []
    for code, table in filled(prices, cache).items():
        close, valid = table["close"], table["valid"]
        for t in range(len(close)):
            returns.append(close[t] / close[t - 1] - 1 if t else np.nan)
            want.append(
                [
                    close[t + 1 + h] / close[t + 1] - 1 if t + 1 + h < len(close) and valid[t + 1] else np.nan
                    for h in cache.horizons
                ]
            )
        assert code
    np.testing.assert_allclose(cache.targets, np.array(want), rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(cache.returns, np.array(returns), rtol=2e-6, atol=1e-7)


def test_pain_16_unknown_targets_stay_nan(cache: Cache) -> None:
    last = cache.code_offsets[1:] - 1
    assert np.isnan(cache.targets[last]).all()
    halted = np.flatnonzero(~cache.valid)
    assert np.isnan(cache.targets[halted[0] - 1]).all()  # entry on a halted day
    assert np.isfinite(cache.targets[halted[0] - 2, 0])  # exit on a halted day: the filled close


def test_features_are_robust_scores_within_the_day(cache: Cache) -> None:
    assert np.isfinite(cache.features).all()
    assert np.abs(cache.features).max() <= 5
    column = cache.feature_names.index("return_1")
    for day in (30, 41, 60):
        rows = np.flatnonzero((cache.day_index == day) & cache.valid)
        assert np.median(cache.features[rows, column]) == pytest.approx(0, abs=1e-6)
        assert np.median(np.abs(cache.features[rows, column])) == pytest.approx(1 / 1.4826, rel=1e-5)


def test_pain_14_feature_names_and_formulas_are_in_the_manifest(
    cache: Cache, builder: Builder, prices: pl.DataFrame
) -> None:
    assert 80 <= len(cache.feature_names) <= 100
    assert set(cache.feature_names) | set(cache.market_names) == set(cache.manifest.feature_formulas)
    close_only, _ = builder(prices.select("date", "code", "close"))
    assert 20 < len(close_only.feature_names) < len(cache.feature_names)
    assert set(close_only.feature_names) < set(cache.feature_names)
    assert close_only.sectors == ()


def test_pain_15_a_missing_feature_is_named(builder: Builder, prices: pl.DataFrame) -> None:
    with pytest.raises(DataError, match="'turnover_ratio'"):
        builder(prices, features=("return_5", "turnover_ratio"))
    chosen, _ = builder(prices, features=("volatility_20", "return_5"))
    assert set(chosen.feature_names) == {"volatility_20", "return_5"}


def test_extra_columns_are_features_and_daily_ones_are_market_columns(builder: Builder, prices: pl.DataFrame) -> None:
    rng = np.random.default_rng(1)
    more = prices.with_columns(
        quality=pl.Series(rng.standard_normal(prices.height)),
        fear=pl.col("date").dt.ordinal_day().cast(pl.Float64) % 7,
        note=pl.lit("x"),
        fixed=pl.lit(1.0),
        empty=pl.lit(None, dtype=pl.Float64),
    )
    both, result = builder(more)
    assert both.feature_names[-1] == "quality"
    assert "fear" in both.market_names
    warnings = " ".join(result.profile["warnings"])  # type: ignore[arg-type]
    assert "'fixed' is not a feature: it is constant" in warnings
    assert "'empty' is not a feature: it is 100% empty" in warnings
    assert result.profile["ignored_columns"] == ["note"]
    alone, _ = builder(more, build_features=False)
    assert alone.feature_names == ("quality",)


def ready(prices: pl.DataFrame) -> pl.DataFrame:
    rng = np.random.default_rng(2)
    future = [
        (pl.col("close").shift(-1 - h) / pl.col("close").shift(-1) - 1).over("code").alias(f"target_{h}d")
        for h in (1, 5)
    ]
    past = (pl.col("close") / pl.col("close").shift(1) - 1).over("code").alias("return_1d")
    return prices.select(
        "date",
        "code",
        *future,
        past,
        a=pl.Series(rng.standard_normal(prices.height)),
        b=pl.Series(rng.random(prices.height)),
    )


def test_ready_features_and_targets(builder: Builder, prices: pl.DataFrame) -> None:
    frame = ready(prices)
    cache, _ = builder(frame)
    assert cache.feature_names == ("a", "b")
    row = frame.filter((pl.col("code") == "B02") & (pl.col("date") == cache.days[30].astype(object))).row(0, named=True)
    at = cache.code_offsets[2] + 30
    np.testing.assert_allclose(cache.targets[at], [row["target_1d"], row["target_5d"]], rtol=1e-6)
    assert cache.returns[at] == pytest.approx(row["return_1d"], rel=1e-6)
    halted = ~cache.valid
    assert halted.sum() == 2
    assert (cache.features[halted] == 0).all()
    assert np.isnan(cache.targets[halted]).all()
    inferred, _ = builder(frame.drop("return_1d"))  # returns from the 1-day target of two days before
    both = np.isfinite(inferred.returns) & np.isfinite(cache.returns)
    assert both.sum() > 1000
    np.testing.assert_allclose(inferred.returns[both], cache.returns[both], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (pl.lit(0.0), "are the same for all stocks on every day"),
        (pl.col("date").dt.ordinal_day() / 1000, "are the same for all stocks on every day"),
        (pl.lit(None, pl.Float64), "are known for no stock on any day"),
    ],
)
def test_a_horizon_whose_targets_say_nothing_is_refused(
    builder: Builder, prices: pl.DataFrame, tmp_path: Path, target: pl.Expr, message: str
) -> None:
    frame = ready(prices).with_columns(target_5d=target)
    words = rf"the targets of 5 days \(column 'target_5d'\) {message}: correct them"
    with pytest.raises(DataError, match=words):
        builder(frame)
    frame.write_parquet(tmp_path / "p.parquet")
    with pytest.raises(DataError, match=words):
        inspect(DatasetSpec(name="x", path=str(tmp_path / "p.parquet"), horizons=(1, 5)))


def test_constant_prices_have_no_targets_and_last_days_without_are_told(builder: Builder, prices: pl.DataFrame) -> None:
    with pytest.raises(DataError, match="the targets of 1 days are the same for all stocks on every day; the targets"):
        builder(prices.select("date", "code", close=20.0, own=pl.col("close").sin()))
    days = prices["date"].unique().sort()
    known = ready(prices).with_columns(target_1d=pl.when(pl.col("date") <= days[60]).then("target_1d"))
    _, result = builder(known)
    warnings = [w for w in result.profile["warnings"] if "are known for no stock after" in w]  # type: ignore[attr-defined]
    assert len(warnings) == 1
    assert f"(column 'target_1d') are known for no stock after {days[60]}: the last 29 days" in warnings[0]


def test_pain_17_fingerprint_is_of_the_content(builder: Builder, prices: pl.DataFrame, cache: Cache) -> None:
    again, _ = builder(prices, name="another-name")  # another folder, another name
    assert again.fingerprint == cache.fingerprint
    assert builder(prices, horizons=(1,))[0].fingerprint != cache.fingerprint
    assert builder(prices.with_columns(volume=pl.col("volume") + 1))[0].fingerprint != cache.fingerprint


def test_universe_is_point_in_time(builder: Builder, prices: pl.DataFrame, tmp_path: Path) -> None:
    cache, _ = builder(prices)
    first, second = cache.days[20].astype(object), cache.days[50].astype(object)
    pl.DataFrame({"date": [first, first, second], "code": ["B00", "B01", "B02"], "rank": [1, 2, 1]}).write_csv(
        tmp_path / "u.csv"
    )
    dated, result = builder(prices, universe=SideFile(file=str(tmp_path / "u.csv")))
    for row in range(len(dated.valid)):
        day, code = dated.day_index[row], dated.codes[dated.code_index[row]]
        assert dated.in_universe[row] == (
            code in ("B00", "B01") if 20 <= day < 50 else code == "B02" if day >= 50 else False
        )
    assert any("20 trading days have no list" in w for w in result.profile["warnings"])  # type: ignore[attr-defined]
    pl.DataFrame({"year": [2020, 2020, 2021], "code": ["B00", "ZZ", "B01"], "rank": [1, 2, 1]}).write_csv(
        tmp_path / "y.csv"
    )
    yearly, _ = builder(prices, universe=SideFile(file=str(tmp_path / "y.csv")))
    assert {yearly.codes[c] for c in yearly.code_index[yearly.in_universe]} == {"B00"}
    column, _ = builder(prices.with_columns(in_universe=pl.col("code") != "B00"))
    assert {column.codes[c] for c in column.code_index[~column.in_universe]} == {"B00"}
    pl.DataFrame({"year": [2020], "code": ["ZZ"]}).write_csv(tmp_path / "z.csv")
    with pytest.raises(DataError, match="no row of the panel is in the universe"):
        builder(prices, universe=SideFile(file=str(tmp_path / "z.csv")))


def test_pain_20_profile_counts_anomalies(builder: Builder, prices: pl.DataFrame) -> None:
    odd = prices.with_columns(
        close=pl.when((pl.col("code") == "B01") & (pl.col("date") > pl.date(2020, 3, 2)))
        .then(pl.col("close") * 3)
        .otherwise("close"),
        volume=pl.when(pl.col("code") == "B02").then(0.0).otherwise("volume"),
    )
    _, result = builder(odd)
    about = result.profile
    assert about["num_rows"] == prices.height
    assert about["num_codes"] == 14
    assert about["num_days"] == 90
    assert about["num_jumps"] == 1
    assert about["num_filled_rows"] == 2
    assert about["codes_without_sector"] == 1
    assert about["names_per_day"] == {"min": 13, "median": 14.0, "max": 14}
    assert about["zero_volume_share"] == pytest.approx(90 / prices.height)
    assert any("beyond ±50%" in w and "B01" in w for w in about["warnings"])  # type: ignore[attr-defined]
    absurd = prices.with_columns(
        close=pl.when((pl.col("code") == "B01") & (pl.col("date") > pl.date(2020, 3, 2)))
        .then(pl.col("close") * 1255)
        .otherwise("close")
    )
    with pytest.raises(DataError, match=r"B01 with \+12\d{4}%"):
        builder(absurd)


def test_build_is_atomic_and_can_be_stopped(prices: pl.DataFrame, folder: Path) -> None:
    path = folder.parent / "p.parquet"
    prices.write_parquet(path)
    spec = DatasetSpec(name="x", path=str(path), horizons=(1, 5))
    seen: list[Event] = []
    with pytest.raises(BuildStopped):
        build(spec, folder, seen.append, lambda: len(seen) >= 5)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["p.parquet"]
    seen.clear()
    first = build(spec, folder, seen.append, lambda: False)
    ratios = [e.ratio for e in seen if isinstance(e, Progress)]
    assert ratios == sorted(ratios)
    assert ratios[-1] == 1.0
    assert sorted(p.name for p in folder.parent.iterdir()) == ["new", "p.parquet"]
    assert build(spec, folder, seen.append, lambda: False).manifest == first.manifest  # the same cache is already there
    with pytest.raises(CacheError, match="another cache"):
        build(spec.model_copy(update={"horizons": (1,)}), folder, seen.append, lambda: False)
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "file").touch()
    with pytest.raises(CacheError, match="no cache"):
        build(spec, folder.parent / "other", seen.append, lambda: False)
    known = folder.parent / "known" / first.manifest.fingerprint
    known.parent.mkdir()
    folder.rename(known)
    assert build(spec, folder, seen.append, lambda: False, known.parent) == first
    assert not folder.exists()
    with (known / "panel.arrow").open("r+b") as file:
        file.seek(5000)
        file.write(b"alter")
    assert build(spec, folder, seen.append, lambda: False, known.parent) == first  # which was not used, but built again
    check_files(folder, first.manifest)


def test_inspect_returns_the_planned_cache_and_writes_nothing(
    prices: pl.DataFrame, cache: Cache, tmp_path: Path
) -> None:
    prices.rename({"date": "Date", "code": "Symbol", "close": "Adj Close"}).with_columns(
        *((pl.col(c) * 2).alias(c) for c in ("open", "high", "low")), Close=pl.col("Adj Close") * 2
    ).write_csv(tmp_path / "p.csv")
    inspected = inspect(DatasetSpec(name="x", path=str(tmp_path / "p.csv"), horizons=(1, 5)))
    assert inspected["kind"] == "prices"
    assert inspected["columns"] == {
        "date": "Date",
        "code": "Symbol",
        "sector": "sector",
        "open": "open",
        "high": "high",
        "low": "low",
        "close": "Adj Close",
        "volume": "volume",
    }
    assert inspected["num_rows"] == len(cache.valid)
    assert tuple(inspected["feature_names"]) == cache.feature_names  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["p.csv"]


def test_adjusted_close_scales_the_other_prices(builder: Builder, prices: pl.DataFrame) -> None:
    raw = prices.with_columns(
        pl.col("close").alias("Adj Close"),
        *((pl.col(c) * 4).alias(c) for c in ("open", "high", "low", "close")),
        volume=pl.col("volume") / 4,
    )
    adjusted, _ = builder(raw)
    plain, _ = builder(prices)
    np.testing.assert_allclose(adjusted.features, plain.features, atol=1e-4)
    np.testing.assert_allclose(adjusted.targets, plain.targets, rtol=1e-6)


def test_a_full_disk_is_an_error_of_its_own(
    prices: pl.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = folder.parent / "p.parquet"
    prices.write_parquet(path)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DataError, match="disk is full") as caught:
        build(DatasetSpec(name="x", path=str(path), horizons=(1, 5)), folder, lambda _: None, lambda: False)
    assert caught.value.reason == Reason.DISK_FULL
    assert [p.name for p in folder.parent.iterdir()] == ["p.parquet"]
