"""Errors in users' files are refused or give a warning, and are never read as something else."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from atft.data.builder.run import BuildResult
from atft.data.cache.graph import day_graph
from atft.data.cache.reader import Cache
from atft.data.read.columns import ColumnReader
from atft.data.read.tables import table_from_frame
from atft.data.schema import DataError
from atft.spec.data import DatasetSpec, SideFile
from atft.spec.model import GraphSpec

Builder = Callable[..., tuple[Cache, BuildResult]]


def read_dates(*cells: str) -> pl.Series:
    reader = ColumnReader(table_from_frame(pl.DataFrame({"date": cells}), "p"), ["date"])
    days = reader.dates("date")
    reader.settle("refuse")
    return days


@pytest.mark.parametrize(
    "cell", ["31/12/24", "24/01/31", "31-12-24", "1704123199", "2024/1/5", "1724-01-31", "20241301"]
)
def test_text_that_resembles_a_date_is_refused(cell: str) -> None:
    with pytest.raises(DataError, match="is not a date in 1 rows, such as row 1: "):
        read_dates(cell)


def test_dates_in_their_forms() -> None:
    for cell in ("2024-01-31", "2024-01-31T15:00:00+09:00", "2024/01/31", "20240131", "20240131.0", " 2024-01-31 "):
        assert str(read_dates(cell)[0]) == "2024-01-31"


def test_a_later_split_changes_no_earlier_feature(builder: Builder, prices: pl.DataFrame) -> None:
    """As vendors deliver it: a close adjusted for the split beside the traded close and volume."""
    when = prices["date"].unique().sort()[60]
    split = (pl.col("code") == "B00") & (pl.col("date") >= when)
    caches = []
    for ratio in (1.0, 10.0):
        traded = prices.with_columns(
            **{"Adj Close": pl.when(pl.col("code") == "B00").then(pl.col("close") / ratio).otherwise("close")},
            close=pl.when(split).then(pl.col("close") / ratio).otherwise("close"),
            volume=pl.when(split).then(pl.col("volume") * ratio).otherwise("volume"),
        )
        caches.append(builder(traded.drop("open", "high", "low"))[0])
    before = caches[0].day_index < 60
    np.testing.assert_allclose(caches[0].features[before], caches[1].features[before], atol=2e-3)


def test_edges_do_not_know_whether_a_halted_stock_trades_again(builder: Builder, prices: pl.DataFrame) -> None:
    days = prices["date"].unique().sort()
    gone = prices.filter((pl.col("code") != "B01") | (pl.col("date") < days[38]))
    back = prices.filter((pl.col("code") != "B01") | ~pl.col("date").is_between(days[38], days[43]))
    spec = GraphSpec(correlation_window=20, half_life=10, neighbours=2, threshold=0.0, refresh_days=10)
    found = []
    for frame in (gone, back):
        cache = builder(frame)[0]
        graph = day_graph(cache, spec, lambda _: None)
        found.append(graph.edges(40, np.arange(len(cache.codes))))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(3))
def test_strong_built_features_do_not_refuse_a_short_panel(builder: Builder, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dates = np.busday_offset(np.datetime64("2020-01-01"), np.arange(60)).astype("datetime64[D]")
    close = 100 * np.exp(np.cumsum(0.02 * rng.standard_normal((60, 8)), axis=0))
    codes = np.tile([f"C{i}" for i in range(8)], 60)
    builder(pl.DataFrame({"date": np.repeat(dates, 8), "code": codes, "close": close.reshape(-1)}))


def test_events_of_a_few_stocks_are_not_market_wide(builder: Builder, prices: pl.DataFrame) -> None:
    day = prices["date"].unique().sort()
    events = pl.when((pl.col("date") == day[30]) & pl.col("code").is_in(["B00", "B01"])).then(2.0)
    events = events.when((pl.col("date") == day[50]) & (pl.col("code") == "B02")).then(3.0)
    quality = pl.Series(np.random.default_rng(0).standard_normal(prices.height))
    cache, result = builder(prices.with_columns(split_ratio=events, quality=quality))
    assert "split_ratio" not in cache.market_names
    assert any("'split_ratio'" in str(warning) for warning in result.profile["warnings"])  # type: ignore[attr-defined]


def test_a_nearly_market_wide_column_gives_a_warning(builder: Builder, prices: pl.DataFrame) -> None:
    day = pl.col("date").rank("dense").cast(pl.Float64)
    fear = day.sin() * 10 + 20
    odd = pl.when((pl.col("code") == "B00") & (day == 80)).then(fear + 1e-9).otherwise(fear)
    cache, _ = builder(prices.with_columns(fear=fear))
    assert "fear" in cache.market_names
    cache, result = builder(prices.with_columns(fear=odd))
    assert "fear" not in cache.market_names
    assert "but not on ['2020-0" in str(result.profile["warnings"])


def test_one_bad_cell_gives_a_warning_with_its_row(builder: Builder, prices: pl.DataFrame) -> None:
    rng = np.random.default_rng(0)
    text = [f"{x:.4f}" for x in rng.standard_normal(prices.height)]
    text[6] = "1,5x"
    _, result = builder(prices.with_columns(value=pl.Series(text)))
    assert "'value' is not a feature: 99.9% of its cells are numbers, but not those of row [7]" in str(
        result.profile["warnings"]
    )


def test_infinite_cells_give_a_warning(builder: Builder, prices: pl.DataFrame) -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random(prices.height) < 0.1, np.inf, rng.standard_normal(prices.height))
    _, result = builder(prices.with_columns(value=pl.Series(values)))
    assert "'value' has infinite values" in str(result.profile["warnings"])


def test_a_column_of_small_numbers_is_not_constant(builder: Builder, prices: pl.DataFrame) -> None:
    values = np.random.default_rng(0).lognormal(size=prices.height)
    caches = [builder(prices.with_columns(value=pl.Series(values * unit)))[0] for unit in (1.0, 1e-13)]
    columns = [cache.features[:, cache.feature_names.index("value")] for cache in caches]
    assert (columns[0] != 0).mean() > 0.9
    np.testing.assert_allclose(columns[0], columns[1], atol=1e-4)


@pytest.mark.parametrize("target", [-1.5, 1253.9, 1e39])
def test_targets_that_are_no_returns_are_refused(builder: Builder, prices: pl.DataFrame, target: float) -> None:
    rng = np.random.default_rng(0)
    values = 0.01 * rng.standard_normal(prices.height)
    values[6] = target
    frame = prices.select("date", "code").with_columns(
        target_1d=pl.Series(values), value=pl.Series(rng.standard_normal(prices.height))
    )
    with pytest.raises(DataError, match="are no returns"):
        builder(frame, horizons=(1,))


def test_codes_that_were_read_as_numbers(builder: Builder, prices: pl.DataFrame) -> None:
    number = pl.col("code").str.slice(1).cast(pl.Float64) + 7200
    cache, _ = builder(prices.with_columns(code=number))
    assert cache.codes[0] == "7200"
    with pytest.raises(DataError, match="every row needs a code"):
        builder(prices.with_columns(code=pl.when(pl.col("code") == "B00").then(float("nan")).otherwise(number)))


def test_a_market_file_cannot_replace_a_column(builder: Builder, prices: pl.DataFrame, tmp_path: object) -> None:
    day = pl.col("date").rank("dense").cast(pl.Float64)
    prices.select("date").unique().sort("date").with_columns(vix=day.cos()).write_csv(f"{tmp_path}/market.csv")
    market = SideFile(file=f"{tmp_path}/market.csv")
    assert DatasetSpec(name="x", path="p", market=market).market == market
    with pytest.raises(DataError, match=r"market file's columns \['vix_level'\]"):
        builder(prices.with_columns(vix_level=day.sin()), market=market)
