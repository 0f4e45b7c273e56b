"""A thousand random features and targets equal a slow recomputation from raw prices, and none uses later data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from atft.data.builder.run import BuildResult
from atft.data.cache.graph import day_graph
from atft.data.cache.reader import Cache
from atft.spec.data import SideFile
from atft.spec.model import GraphSpec
from tests.unit.atft.data.slow_panel import FORMULAS, SlowPanel

Builder = Callable[..., tuple[Cache, BuildResult]]
REAL = Path(__file__).resolve().parents[6] / "shared" / "data" / "us_2010_2017.parquet"
CODES, DAYS = 18, 300
PRICES = ["open", "high", "low", "close"]


@pytest.fixture(scope="module")
def rough() -> pl.DataFrame:
    """OHLCV with every irregularity: halts of 1 and 40 days, a listing, a delisting, closes without open or high, days
    without volume or with none traded, prices that stand still, a jump of +120 %, sectors that change, are missing or
    have few names.
    """
    rng = np.random.default_rng(11)
    days = np.busday_offset(np.datetime64("2019-01-01"), np.arange(DAYS)).astype("datetime64[D]")
    returns = 0.008 * rng.standard_normal((DAYS, 1)) + 0.02 * rng.standard_t(4, (DAYS, CODES)) / np.sqrt(2)
    returns[150, 4] = 1.2
    returns[100:130, 6] = 0.0
    returns[220:226, :9] = 0.0
    close = np.exp(np.log(rng.uniform(5, 300, CODES)) + np.cumsum(np.log1p(np.clip(returns, -0.5, None)), axis=0))
    opening = close * np.exp(0.005 * rng.standard_normal(close.shape))
    volume = np.round(1e5 * np.exp(rng.standard_normal(close.shape)))
    volume[rng.random(close.shape) < 0.02] = 0
    sector = np.array([f"S{i % 3}" for i in range(CODES)], dtype=object)
    frame = pl.DataFrame(
        {
            "date": np.repeat(days, CODES),
            "code": [f"C{i:02d}" for i in range(CODES)] * DAYS,
            "sector": [
                None if i == 7 else "few" if i in (8, 9) else "S1" if i == 3 and t > 140 else sector[i]
                for t in range(DAYS)
                for i in range(CODES)
            ],
            "open": opening.reshape(-1),
            "high": np.maximum(opening, close).reshape(-1) * 1.003,
            "low": np.minimum(opening, close).reshape(-1) * 0.997,
            "close": close.reshape(-1),
            "volume": volume.reshape(-1),
        }
    )
    blank = {c: pl.Series(rng.random(frame.height) < 0.02) for c in ("open", "high", "volume")}
    frame = frame.with_columns(pl.when(~mask).then(pl.col(c)).alias(c) for c, mask in blank.items())
    t, i = pl.int_range(pl.len()) // CODES, pl.int_range(pl.len()) % CODES
    gone = ((i == 2) & t.is_between(80, 119)) | ((i == 5) & (t < 60)) | ((i == 10) & (t > 210)) | ((i == 0) & (t == 40))
    return frame.filter(~gone & pl.Series(rng.random(frame.height) >= 0.01))


@pytest.fixture(scope="module")
def built(builder: Builder, rough: pl.DataFrame) -> Cache:
    return builder(rough)[0]


def agree(cache: Cache, slow: SlowPanel, count: int) -> None:
    """`count` random (stock, day, feature), `count` random targets, all of beta, equal to the slow panel's."""
    rng = np.random.default_rng(5)
    assert [str(d) for d in cache.days] == [str(d) for d in slow.days]
    assert list(cache.codes) == list(slow.stocks)
    assert {n.removeprefix("rank_").removeprefix("sector_") for n in cache.feature_names} <= set(FORMULAS)
    known: dict[tuple[str, int], dict[int, float]] = {}
    num_nonzero = 0
    for row, column in zip(
        rng.integers(0, len(cache.day_index), count), rng.integers(0, len(cache.feature_names), count), strict=True
    ):
        name, day = cache.feature_names[column], int(cache.day_index[row])
        if (name, day) not in known:
            known[name, day] = slow.normalised(name, day)
        want = known[name, day][int(cache.code_index[row])]
        where = f"{name} of {cache.codes[cache.code_index[row]]} on {cache.days[day]}"
        assert cache.features[row, column] == pytest.approx(want, rel=2e-4, abs=1e-4), where
        num_nonzero += want != 0
    assert num_nonzero > 0.6 * count
    for row, k in zip(
        rng.integers(0, len(cache.day_index), count), rng.integers(0, len(cache.horizons), count), strict=True
    ):
        want = slow.target(cache.codes[cache.code_index[row]], int(cache.day_index[row]), cache.horizons[k])
        np.testing.assert_allclose(cache.targets[row, k], want, rtol=2e-6, atol=1e-7)
    beta = np.concatenate([stock.beta for stock in slow.stocks.values()])
    np.testing.assert_allclose(cache.beta, beta, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(cache.valid, np.concatenate([stock.valid for stock in slow.stocks.values()]))


def test_a_thousand_values_equal_slow_recomputation(built: Cache, rough: pl.DataFrame) -> None:
    agree(built, SlowPanel(rough), 1000)


@pytest.mark.skipif(not REAL.exists(), reason="the real panel is not beside the checkout")
def test_values_of_a_real_panel_equal_slow_recomputation(builder: Builder) -> None:
    frame = pl.scan_parquet(REAL).filter(pl.col("date").is_between(pl.date(2013, 1, 1), pl.date(2014, 4, 1))).collect()
    some = frame["code"].unique().sort()[::40]
    slice_ = frame.filter(pl.col("code").is_in(some.implode()))
    agree(builder(slice_)[0], SlowPanel(slice_), 300)


GRAPH = GraphSpec(correlation_window=40, half_life=20, neighbours=4, threshold=0.1, refresh_days=20)


def sides(folder: Path, frame: pl.DataFrame, after: int | None) -> dict[str, SideFile]:
    """A dated universe and a market series; what is dated after day `after` is another one than without it."""
    days = frame["date"].unique().sort()
    late = pl.Series(range(len(days))) > (DAYS if after is None else after)
    rng = np.random.default_rng(3)
    level = (
        pl.Series(20 + np.cumsum(rng.standard_normal(len(days))))
        * pl.select(pl.when(late).then(3.0).otherwise(1.0)).to_series()
    )
    pl.DataFrame({"date": days, "FEAR": level}).write_csv(folder / "market.csv")
    lists = [
        (days[d], f"C{(i + 7 * (after is not None and d > after)) % CODES:02d}") for d in (5, 90, 200) for i in range(9)
    ]
    pl.DataFrame(lists, schema=["date", "code"], orient="row").write_csv(folder / "universe.csv")
    return {name: SideFile(file=str(folder / f"{name}.csv")) for name in ("market", "universe")}


@pytest.fixture(scope="module")
def whole(builder: Builder, rough: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return builder(rough, **sides(tmp_path_factory.mktemp("sides"), rough, None))[0]


@pytest.mark.parametrize("after", [59, 139, 259])  # refresh days of the graph: one day ahead would be seen
def test_later_data_changes_no_earlier_value(
    builder: Builder, rough: pl.DataFrame, whole: Cache, tmp_path: Path, after: int
) -> None:
    """Science 6.4: after day t other prices, volumes, sectors, lists and market values. To the last bit the same up to
    t: features, market columns, returns, beta, sectors, membership, graph edges, and targets that end by then.
    """
    rng = np.random.default_rng(0)
    late = pl.col("date") > whole.days[after].astype(object)
    steps = pl.when(late).then("step").otherwise(0.0)
    noise = steps.cum_sum().over("code", order_by="date").exp()  # another walk: noise around this one would be a signal
    changed = rough.with_columns(step=pl.Series(0.03 * rng.standard_normal(rough.height))).with_columns(
        *(pl.when(late).then(pl.col(c) * noise).otherwise(c).alias(c) for c in PRICES),
        pl.when(late).then((pl.col("volume") * noise * 9).round()).otherwise("volume").alias("volume"),
        pl.when(late).then(pl.lit("S2")).otherwise("sector").alias("sector"),
    )
    changed = changed.drop("step")
    other, _ = builder(changed, **sides(tmp_path, rough, after))
    early = whole.day_index <= after
    same_up_to(whole, other, early, early, after)
    assert not np.array_equal(other.features[~early], whole.features[~early])
    assert not np.array_equal(other.in_universe[~early], whole.in_universe[~early]) or after > 200
    assert not np.array_equal(other.market[after + 1 :], whole.market[after + 1 :])


def test_a_shorter_panel_has_the_same_values(
    builder: Builder, rough: pl.DataFrame, whole: Cache, tmp_path: Path
) -> None:
    """Without any data after day t, every valid row up to t is unchanged. (A halt that is never seen to end
    has no row.)
    """
    after = 219
    ended, _ = builder(rough.filter(pl.col("date") <= whole.days[after].astype(object)), **sides(tmp_path, rough, None))
    key = {(int(d), ended.codes[c]): n for n, (d, c) in enumerate(zip(ended.day_index, ended.code_index, strict=True))}
    rows = [
        (n, key[int(d), whole.codes[c]])
        for n, (d, c) in enumerate(zip(whole.day_index, whole.code_index, strict=True))
        if d <= after and whole.valid[n]
    ]
    mine, theirs = np.array(rows).T
    assert len(mine) == ended.valid.sum() > 3000
    same_up_to(whole, ended, mine, theirs, after)


def same_up_to(a: Cache, b: Cache, mine: np.ndarray, theirs: np.ndarray, after: int) -> None:
    for name in ("features", "returns", "beta", "in_universe", "valid", "day_index", "code_index"):
        np.testing.assert_array_equal(getattr(a, name)[mine], getattr(b, name)[theirs], err_msg=name)
    np.testing.assert_array_equal(a.market[: after + 1], b.market[: after + 1])
    assert [a.sectors[s] if s >= 0 else None for s in a.sector_index[mine]] == [
        b.sectors[s] if s >= 0 else None for s in b.sector_index[theirs]
    ]
    for k, horizon in enumerate(a.horizons):
        done = a.day_index[mine] + 1 + horizon <= after
        known = done & np.isfinite(b.targets[theirs, k])  # a span may end earlier in b
        assert known.sum() > 0.9 * done.sum()
        np.testing.assert_array_equal(a.targets[mine, k][known], b.targets[theirs, k][known])
    one, two = (day_graph(c, GRAPH, lambda _: None) for c in (a, b))
    for day in one.days[one.days <= after]:
        for left, right in zip(
            one.edges(int(day), np.arange(len(a.codes))), two.edges(int(day), np.arange(len(b.codes))), strict=True
        ):
            np.testing.assert_array_equal(left, right)
