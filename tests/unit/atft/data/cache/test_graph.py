"""The day graph equals plain loops, uses past returns only, and is induced on the day's stocks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from atft.data.cache.graph import correlations, day_edges, day_graph, graph_digest
from atft.data.cache.reader import Cache
from atft.events import Event
from atft.spec.model import GraphSpec

SPEC = GraphSpec(correlation_window=20, half_life=10, neighbours=3, threshold=0.1, refresh_days=5)


def returns_of(stocks: int = 12, days: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((days, 1))
    return (0.01 * (factor * rng.choice([-1, 1], stocks) + rng.standard_normal((days, stocks)))).astype(np.float32)


def test_correlation_equals_weighted_loops() -> None:
    returns = returns_of()
    returns[:12, 4] = np.nan  # fewer than half of the days
    returns[3, 5] = np.nan
    corr, volatility, enough = correlations(returns, 10, 0.1)
    weight = 0.5 ** (np.arange(20)[::-1] / 10)
    assert enough.tolist() == [j != 4 for j in range(12)]
    i, j = 0, 1
    x, y = (returns[:, k] - np.average(returns[:, k], weights=weight) for k in (i, j))
    want = np.average(x * y, weights=weight) / np.sqrt(
        np.average(x * x, weights=weight) * np.average(y * y, weights=weight)
    )
    assert corr[i, j] == pytest.approx(0.9 * want, abs=1e-5)
    assert volatility[0] == pytest.approx(np.sqrt(np.average(x * x, weights=weight)), rel=1e-4)
    assert (corr[4] == 0).all()
    assert (np.diag(corr) == 0).all()


@pytest.mark.parametrize("threshold", [0.1, 0.6])
def test_edges_equal_plain_loops(threshold: float) -> None:
    returns, sectors = returns_of(), np.array([0, 0, 0, 1, 1, 1, -1, -1, 2, 2, 2, 2], np.int32)
    spec = SPEC.model_copy(update={"threshold": threshold})
    corr, volatility, _ = correlations(returns, 10, 0.1)
    chosen, by_sector = set(), set()
    for i in range(12):
        strong = sorted(
            (j for j in range(12) if j != i and abs(corr[i, j]) >= threshold), key=lambda j: -abs(corr[i, j])
        )[:3]
        chosen |= {(i, j) for j in strong} | {(j, i) for j in strong}
        peers = sorted((j for j in range(12) if j != i and sectors[i] == sectors[j] >= 0), key=lambda j: -corr[i, j])[
            :1
        ]
        by_sector |= {(i, j) for j in peers} | {(j, i) for j in peers}
    edges, attributes = day_edges(returns, sectors, spec)
    assert {(int(a), int(b)) for a, b in edges.T} == chosen | by_sector
    assert len(edges.T) == len(chosen | by_sector)
    for (a, b), values in zip(edges.T, attributes, strict=True):
        alike = sectors[a] == sectors[b] >= 0
        assert values[0] == pytest.approx((corr[a, b] + 1) / 2)
        assert values[1] == ((1.0 if (a, b) in chosen else 0.5) if alike else 0.0)
        assert values[2] == pytest.approx(np.exp(-abs(volatility[a] - volatility[b]) / volatility.std()), rel=1e-4)
        assert -1 <= values[3] <= 1
    without, _ = day_edges(returns, sectors, spec.model_copy(update={"sector_edges": False}))
    assert {(int(a), int(b)) for a, b in without.T} == chosen


def test_residual_correlation_has_the_market_taken_out() -> None:
    rng = np.random.default_rng(1)
    factor = 0.02 * rng.standard_normal((60, 1))
    returns = (factor * rng.uniform(0.5, 1.5, 30) + 0.005 * rng.standard_normal((60, 30))).astype(np.float32)
    _, attributes = day_edges(returns, np.full(30, -1, np.int32), SPEC.model_copy(update={"correlation_window": 60}))
    assert attributes[:, 0].mean() > 0.85  # (corr + 1)/2 of stocks driven by one factor
    assert abs(attributes[:, 3].mean()) < 0.2


def test_without_the_market_stocks_that_move_against_each_other_are_neighbours() -> None:
    rng = np.random.default_rng(2)
    shared = np.repeat(rng.standard_normal((250, 20)), 2, axis=1) * np.tile([1.0, -1.0], 20)
    returns = 0.01 * (0.7 * rng.standard_normal((250, 1)) + shared + rng.standard_normal((250, 40)))
    pairs = {(i, i ^ 1) for i in range(40)}
    found = {}
    for by in ("correlation", "residual_correlation"):
        spec = GraphSpec(correlation_window=250, half_life=250, neighbours=1, neighbours_by=by, sector_edges=False)
        edges, _ = day_edges(returns.astype(np.float32), np.full(40, -1, np.int32), spec)
        found[by] = {(int(a), int(b)) for a, b in edges.T}
    assert found["residual_correlation"] == pairs
    assert len(found["correlation"] & pairs) < len(pairs) / 2


def test_residual_correlation_equals_plain_regressions() -> None:
    returns = returns_of()
    edges, attributes = day_edges(returns, np.zeros(12, np.int32), SPEC)
    market = returns.mean(axis=1)
    left = []
    for stock in range(12):
        slope, level = np.polyfit(market.astype(np.float64), returns[:, stock].astype(np.float64), 1)
        left.append(returns[:, stock] - level - slope * market)
    weight = 0.5 ** (np.arange(20)[::-1] / SPEC.half_life)
    for (a, b), values in zip(edges.T, attributes, strict=True):
        want = np.cov(left[a], left[b], aweights=weight)
        assert values[3] == pytest.approx(0.9 * want[0, 1] / np.sqrt(want[0, 0] * want[1, 1]), abs=1e-4)


def test_edges_use_returns_up_to_the_refresh_day_only(cache: Cache, tmp_path: Path) -> None:
    """Science 6.9: later returns are noise in a copy of the cache; the graph of every earlier day stays the same, bit
    for bit.
    """
    graph = day_graph(cache, SPEC, lambda _: None)
    shutil.copytree(cache.path, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "graphs")
    other = Cache.open(tmp_path / "copy")
    late = other.day_index > 60
    other.returns[late] = np.random.default_rng(0).standard_normal(late.sum()) * 0.05  # into the private map
    again = day_graph(other, SPEC, lambda _: None)
    for day in range(90):
        codes = cache.code_index[(cache.day_index == day)].astype(np.int64)
        (a, x), (b, y) = graph.edges(day, codes), again.edges(day, codes)
        same = a.shape == b.shape and np.array_equal(a, b) and np.array_equal(x, y)
        assert same or day > 60
    assert not same


def test_graph_of_a_day_is_that_of_the_latest_refresh_day(cache: Cache) -> None:
    graph = day_graph(cache, SPEC, lambda _: None)
    codes = np.arange(14)
    assert graph.days[:3].tolist() == [4, 9, 14]
    assert graph.edges(3, codes)[0].shape == (2, 0)
    np.testing.assert_array_equal(graph.edges(29, codes)[0], graph.edges(33, codes)[0])
    assert not np.array_equal(graph.edges(33, codes)[1], graph.edges(34, codes)[1])


def test_pain_26_induced_subgraph_is_in_local_numbers(cache: Cache) -> None:
    graph = day_graph(cache, SPEC, lambda _: None)
    everything, attributes = graph.edges(60, np.arange(14))
    some = np.array([9, 2, 5, 11])
    local, values = graph.edges(60, some)
    want = {(int(some[a]), int(some[b])): tuple(v) for (a, b), v in zip(local.T, values, strict=True)}
    assert want == {
        (int(a), int(b)): tuple(v)
        for (a, b), v in zip(everything.T, attributes, strict=True)
        if a in some and b in some
    }
    assert {(b, a) for a, b in want} == set(want)  # symmetric
    assert all(a != b for a, b in want)


def test_graph_is_built_once_and_kept_as_plain_arrow(cache: Cache) -> None:
    events: list[Event] = []
    spec = SPEC.model_copy(update={"neighbours": 4})
    day_graph(cache, spec, events.append)
    assert len(events) == 18  # one heartbeat a refresh day
    day_graph(cache, spec, events.append)
    assert len(events) == 18
    path = cache.path / "graphs" / f"{graph_digest(spec)}.arrow"
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.schema.names == ["date", "day", "source", "target", "attributes"]
    assert json.loads(table.schema.metadata[b"atft"])["fingerprint"] == cache.fingerprint
    assert graph_digest(spec) != graph_digest(SPEC)
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_a_graph_that_is_altered_or_of_another_cache_is_built_again(cache: Cache, planted: Cache) -> None:
    spec = SPEC.model_copy(update={"neighbours": 2})
    day_graph(cache, spec, lambda _: None)
    name = f"{graph_digest(spec)}.arrow"
    (planted.path / "graphs").mkdir(exist_ok=True)
    foreign, path = cache.path / "graphs" / name, planted.path / "graphs" / name
    for copy in (name, f"{name}.sha256"):
        shutil.copy(foreign.with_name(copy), path.with_name(copy))
    day_graph(planted, spec, lambda _: None)
    whole = path.read_bytes()
    assert whole != foreign.read_bytes()
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 1
    for content in (altered, b"ARROW1\0\0"):
        path.write_bytes(content)
        day_graph(planted, spec, lambda _: None)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("settings", [{"threshold": 0.999}, {"shrinkage": 1.0}, {"refresh_days": 250}])
def test_a_graph_without_edges_has_none_on_any_day(cache: Cache, settings: dict[str, float]) -> None:
    spec = SPEC.model_copy(update={"sector_edges": False} | settings)
    for _ in range(2):  # built, then read
        graph = day_graph(cache, spec, lambda _: None)
        assert not graph.has_edges(np.arange(len(cache.days)))
        edges, attributes = graph.edges(len(cache.days) - 1, np.arange(len(cache.codes)))
        assert (edges.shape, attributes.shape) == ((2, 0), (0, 4))


@pytest.mark.parametrize(
    ("settings", "sectors", "reason"),
    [
        ({"refresh_days": 91}, True, "number 91, comes after the last training day, 90"),
        ({"shrinkage": 1.0}, False, "no correlation above 0, the threshold is 0.1, and the dataset has no sectors"),
        ({"threshold": 0.9, "sector_edges": False}, True, "above 0.9, the threshold is 0.9, and sector_edges is off"),
        ({"threshold": 0.9}, True, None),
        ({"threshold": 0.89}, False, None),
        ({"refresh_days": 90}, False, None),
    ],
)
def test_settings_that_leave_no_edge_are_known_beforehand(
    settings: dict[str, float], sectors: bool, reason: str | None
) -> None:
    found = SPEC.model_copy(update=settings).edgeless_reason(90, has_sectors=sectors)
    assert found is None if reason is None else reason in str(found)
