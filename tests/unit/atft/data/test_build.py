"""What the build computes, against slow recomputation from raw prices; and how it writes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from atft.data.build import BuildResult, BuildStopped, build, inspect
from atft.data.cache import Cache, CacheError
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


def slope(y: np.ndarray) -> float:
    return float(np.polyfit(np.arange(len(y)), y, 1)[0])


SLOW: dict[str, tuple[int, Callable[[Table, np.ndarray], float]]] = {
    "return_5": (6, lambda t, _: t["close"][-1] / t["close"][0] - 1),
    "momentum_120_20": (121, lambda t, _: t["close"][-21] / t["close"][0] - 1),
    "mean_20": (20, lambda t, _: t["close"].mean() / t["close"][-1]),
    "volatility_20": (20, lambda t, _: np.std(t["return"], ddof=1)),
    "slope_20": (20, lambda t, _: slope(np.log(t["close"]))),
    "trend_20": (20, lambda t, _: np.corrcoef(np.log(t["close"]), np.arange(20))[0, 1]),
    "position_20": (20, lambda t, _: (t["close"][-1] - t["close"].min()) / (t["close"].max() - t["close"].min())),
    "drawdown_20": (20, lambda t, _: t["close"][-1] / t["close"].max() - 1),
    "up_share_10": (10, lambda t, _: (t["return"] > 0).mean()),
    "skew_20": (20, lambda t, _: ((t["return"] - t["return"].mean()) ** 3).mean() / t["return"].std() ** 3),
    "market_corr_60": (60, lambda t, m: np.corrcoef(t["return"], m)[0, 1]),
    "body_share": (
        1,
        lambda t, _: (
            (t["close"][0] - t["open"][0]) / (t["high"][0] - t["low"][0]) if t["high"][0] > t["low"][0] else np.nan
        ),
    ),
    "gap": (2, lambda t, _: t["open"][-1] / t["close"][0] - 1),
    "parkinson_20": (20, lambda t, _: np.sqrt((np.log(t["high"] / t["low"]) ** 2).mean() / (4 * np.log(2)))),
    "volume_20": (20, lambda t, _: np.log((t["volume"][-1] + 1) / (t["volume"].mean() + 1))),
    "price_volume_20": (20, lambda t, _: np.corrcoef(np.log(t["close"]), np.log(t["volume"] + 1))[0, 1]),
}


@pytest.mark.parametrize("name", list(SLOW))
def test_features_equal_slow_recomputation(cache: Cache, prices: pl.DataFrame, name: str) -> None:
    """Every day and stock whose window is full and has a return throughout, normalised within the day by hand."""
    length, formula = SLOW[name]
    tables = filled(prices, cache)
    by_day: dict[int, list[float]] = {d: [] for d in range(90)}
    for table in tables.values():
        table["return"] = np.concatenate([[np.nan], table["close"][1:] / table["close"][:-1] - 1])
        for d, r, valid in zip(table["day"], table["return"], table["valid"], strict=True):
            if valid and np.isfinite(r):
                by_day[int(d)].append(float(np.clip(r, -0.5, 0.5)))
    market = np.array([np.mean(by_day[d]) if by_day[d] else 0.0 for d in range(90)])
    column = cache.feature_names.index(name)
    for day in (45, 61, 89) if length <= 21 else (80, 89):  # B03 halts on 40 and 41; B05 lists on 15
        values, rows, valid = [], [], []
        for c, code in enumerate(cache.codes):
            table = tables[code]
            at = np.flatnonzero(table["day"] == day)
            if not len(at):
                continue
            stop = int(at[0]) + 1
            window = {k: v[max(0, stop - length) : stop] for k, v in table.items()}
            full = stop >= length + 1
            values.append(formula(window, market[day + 1 - length : day + 1]) if full else np.nan)
            rows.append(cache.code_offsets[c] + stop - 1)
            valid.append(table["valid"][stop - 1])
        x = np.array(values)
        if name == "momentum_120_20":
            np.testing.assert_array_equal(cache.features[rows, column], 0)  # no stock is that old: missing is 0
            continue
        assert np.isfinite(x).all()
        centre = np.median(x[valid])
        want = np.clip((x - centre) / (1.4826 * np.median(np.abs(x[valid] - centre))), -5, 5)
        np.testing.assert_allclose(cache.features[rows, column], want, rtol=2e-4, atol=2e-5)


def test_beta_equals_slow_recomputation(cache: Cache) -> None:
    dense = np.full((90, 14), np.nan)
    dense[cache.day_index, cache.code_index] = cache.returns
    known = np.full((90, 14), fill_value=False)
    known[cache.day_index, cache.code_index] = cache.valid & np.isfinite(cache.returns)
    market = np.array([np.clip(dense[d, known[d]], -0.5, 0.5).mean() if known[d].any() else 0.0 for d in range(90)])
    row = int(cache.code_offsets[3])
    r, m = dense[1:81, 2], market[1:81]
    assert cache.beta[cache.code_offsets[2] + 80] == pytest.approx(np.cov(r, m, ddof=0)[0, 1] / m.var(), rel=1e-4)
    assert cache.beta[row + 5] == 1.0  # fewer than 20 returns


def test_later_prices_change_nothing_earlier(builder: Builder, cache: Cache, prices: pl.DataFrame) -> None:
    """Science 6.4: multiply all prices after day 60 by noise; features, market columns, returns and beta up to day 60
    keep every bit.
    """
    rng = np.random.default_rng(0)
    late = pl.col("date") > cache.days[60].astype(object)
    noise = pl.Series("noise", rng.uniform(0.7, 1.4, prices.height))
    changed = prices.with_columns(
        pl.when(late).then(pl.col(c) * noise).otherwise(c).alias(c) for c in ("open", "high", "low", "close", "volume")
    )
    other, _ = builder(changed)
    early = cache.day_index <= 60
    assert np.array_equal(other.features[early], cache.features[early])
    assert np.array_equal(other.market[:61], cache.market[:61])
    assert np.array_equal(other.returns[early], cache.returns[early], equal_nan=True)
    assert np.array_equal(other.beta[early], cache.beta[early])
    assert not np.array_equal(other.features[~early], cache.features[~early])
    assert other.fingerprint != cache.fingerprint


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


def test_pain_20_profile_counts_what_is_odd(builder: Builder, prices: pl.DataFrame) -> None:
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


def test_inspect_tells_what_would_be_built_and_writes_nothing(
    prices: pl.DataFrame, cache: Cache, tmp_path: Path
) -> None:
    prices.rename({"date": "Date", "code": "Symbol", "close": "Adj Close"}).with_columns(
        Close=pl.col("Adj Close") * 2
    ).write_csv(tmp_path / "p.csv")
    told = inspect(DatasetSpec(name="x", path=str(tmp_path / "p.csv"), horizons=(1, 5)))
    assert told["kind"] == "prices"
    assert told["columns"] == {
        "date": "Date",
        "code": "Symbol",
        "sector": "sector",
        "open": "open",
        "high": "high",
        "low": "low",
        "close": "Adj Close",
        "volume": "volume",
    }
    assert told["num_rows"] == len(cache.valid)
    assert tuple(told["feature_names"]) == cache.feature_names  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["p.csv"]


def test_adjusted_close_scales_the_other_prices(builder: Builder, prices: pl.DataFrame) -> None:
    raw = prices.with_columns(
        pl.col("close").alias("Adj Close"), *((pl.col(c) * 4).alias(c) for c in ("open", "high", "low", "close"))
    )
    adjusted, _ = builder(raw)
    plain, _ = builder(prices)
    np.testing.assert_allclose(adjusted.features, plain.features, atol=1e-4)
    np.testing.assert_allclose(adjusted.targets, plain.targets, rtol=1e-6)


def test_a_full_disk_is_told_as_such(prices: pl.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = folder.parent / "p.parquet"
    prices.write_parquet(path)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DataError, match="disk is full") as caught:
        build(DatasetSpec(name="x", path=str(path), horizons=(1, 5)), folder, lambda _: None, lambda: False)
    assert caught.value.reason == Reason.DISK_FULL
    assert [p.name for p in folder.parent.iterdir()] == ["p.parquet"]
