"""Batches equal brute force; runs of days; labels."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata

import atft
from atft.data.cache.graph import day_graph
from atft.data.cache.labels import NEUTRAL, day_labels
from atft.data.cache.reader import Cache
from atft.data.cache.windows import DayReader, gather_windows
from atft.data.schema import DataError
from atft.spec.data import DataSpec
from atft.spec.model import GraphSpec

CPU = torch.device("cpu")
WINDOW = 20


def reader(cache: Cache, **changes: object) -> DayReader:
    return DayReader(
        cache, DataSpec.model_validate({"window": WINDOW, "horizons": (1, 5), "min_names": 5} | changes), None, CPU
    )


def test_pain_21_window_of_a_sample_equals_brute_force(cache: Cache) -> None:
    """Science 6.1: for each (stock, day) the W rows of that stock that end on that day, oldest first, with the market
    of each row's day.
    """
    read = reader(cache)
    batch = read.batch(np.arange(38, 45))
    seen = []
    for n in range(len(batch.rows)):
        day, code = int(batch.day_numbers[batch.day[n]]), cache.code_index[batch.rows[n]]
        own = np.flatnonzero((cache.code_index == code) & (cache.day_index <= day))[-WINDOW:]
        assert cache.day_index[own].tolist() == list(range(day - WINDOW + 1, day + 1))
        want = np.concatenate([cache.features[own], cache.market[cache.day_index[own]]], axis=1)
        np.testing.assert_array_equal(batch.x[batch.windows[n]].numpy(), want)
        np.testing.assert_array_equal(batch.targets[n].numpy(), cache.targets[own[-1]])
        seen.append((day, int(code)))
    want_seen = [
        (int(cache.day_index[r]), int(cache.code_index[r]))
        for d in range(38, 45)
        for r in np.flatnonzero((cache.day_index == d) & cache.valid)
        if r - cache.code_offsets[cache.code_index[r]] >= WINDOW - 1
    ]
    assert seen == want_seen  # B03 is out on 40 and 41, B05 (listed on 15) until 34
    assert len(batch.x) == len(np.unique(batch.windows.numpy()))  # each row once, and no other


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 60), min_size=1), st.integers(2, 12), st.randoms(use_true_random=False))
def test_gathered_windows_are_the_union(ends: set[int], window: int, random: object) -> None:
    rows = np.array(sorted(ends)) + window
    rows = rows[np.argsort([random.random() for _ in rows])]  # type: ignore[attr-defined]
    union, last = gather_windows(rows, window)
    assert union.tolist() == sorted({r - k for r in rows for k in range(window)})
    for n, r in enumerate(rows):
        assert union[last[n] - window + 1 : last[n] + 1].tolist() == list(range(r - window + 1, r + 1))


def test_batch_of_many_days_equals_batches_of_one(cache: Cache) -> None:
    read = reader(cache)
    read.graph = day_graph(cache, GraphSpec(correlation_window=20, neighbours=3, threshold=0.1), lambda _: None)
    many = read.batch(np.arange(50, 55))
    parts = [read.batch(np.array([d])) for d in range(50, 55)]
    assert torch.equal(many.day, torch.cat([p.day + n for n, p in enumerate(parts)]))
    for name in ("targets", "labels", "ranks", "ranked", "edge_attributes"):
        torch.testing.assert_close(
            getattr(many, name), torch.cat([getattr(p, name) for p in parts]), equal_nan=True, rtol=0, atol=0
        )
    starts = np.cumsum([0, *(len(p.rows) for p in parts)])
    assert torch.equal(many.edges, torch.cat([p.edges + int(starts[n]) for n, p in enumerate(parts)], dim=1))
    assert torch.equal(many.x[many.windows], torch.cat([p.x[p.windows] for p in parts]))
    same_day = many.day[many.edges]
    assert torch.equal(same_day[0], same_day[1])  # pain 26: an edge never leaves its day


def test_labels_and_ranks_are_of_ranked_stocks_with_a_known_target() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((30, 2)).astype(np.float32)
    y[4, 0], y[5, 0] = np.nan, y[6, 0]
    ranked = np.ones(30, np.bool_)
    ranked[:3] = False
    sector, beta = rng.integers(-1, 3, 30).astype(np.int32), rng.standard_normal(30).astype(np.float32)
    known = np.flatnonzero(ranked & np.isfinite(y[:, 0]))
    forms = {
        form: day_labels(y, ranked, sector, beta, form)
        for form in ("raw", "zscore", "rank_gauss", "sector_neutral", "beta_neutral")
    }
    order = rankdata(y[known, 0])
    for form, (labels, ranks) in forms.items():
        assert np.flatnonzero(np.isfinite(labels[:, 0])).tolist() == known.tolist()
        own = rankdata(labels[known, 0])
        assert (own != order).any() == (form in NEUTRAL)
        np.testing.assert_allclose(ranks[known, 0], (own - own.mean()) / own.std(), rtol=1e-5)
        assert np.isnan(np.delete(ranks[:, 0], known)).all()
    np.testing.assert_array_equal(forms["raw"][0][known, 0], y[known, 0])
    np.testing.assert_allclose(
        forms["rank_gauss"][0][known, 0], norm.ppf((order - 0.5) / len(known)), rtol=1e-5, atol=1e-6
    )
    for form in ("zscore", "sector_neutral", "beta_neutral"):
        values = forms[form][0][known, 0].astype(np.float64)
        assert values.mean() == pytest.approx(0, abs=1e-6)
        assert values.std() == pytest.approx(1, rel=1e-5)
    by_sector = forms["sector_neutral"][0][known, 0]
    assert max(abs(by_sector[sector[known] == s].mean()) for s in range(-1, 3)) < 1e-6
    assert abs(np.corrcoef(forms["beta_neutral"][0][known, 0], beta[known])[0, 1]) < 1e-6


def test_stocks_that_equal_their_sector_have_one_rank() -> None:
    """0.1 three times less its mean is a rounding error, and no order."""
    y = np.array([0.1, 0.1, 0.1, 0.7, 0.3, 0.5], np.float32)[:, None]
    sector, beta = np.array([0, 0, 0, 1, 2, 2], np.int32), np.zeros(6, np.float32)
    _, ranks = day_labels(y, np.ones(6, np.bool_), sector, beta, "sector_neutral")
    expected = rankdata([0, 0, 0, 0, -1, 1])
    np.testing.assert_allclose(ranks[:, 0], (expected - 3.5) / expected.std(), rtol=1e-6)
    alone, ranks = day_labels(y, np.ones(6, np.bool_), np.arange(6, dtype=np.int32), beta, "sector_neutral")
    assert np.isnan(alone).all()
    assert np.isnan(ranks).all()


def test_a_day_without_differences_has_no_ranks() -> None:
    labels, ranks = day_labels(
        np.ones((6, 1), np.float32), np.ones(6, np.bool_), np.zeros(6, np.int32), np.ones(6, np.float32), "rank_gauss"
    )
    assert np.isnan(labels).all()
    assert np.isnan(ranks).all()
    empty, _ = day_labels(
        np.full((6, 1), np.nan, np.float32), np.ones(6, np.bool_), np.zeros(6, np.int32), np.ones(6, np.float32), "raw"
    )
    assert np.isnan(empty).all()


def test_stocks_outside_the_universe_are_read_but_not_ranked(cache: Cache) -> None:
    read = reader(cache)
    kept = cache.in_universe.copy()
    try:
        cache.in_universe[cache.code_index == 2] = False
        batch = reader(cache).batch(np.array([50]))
    finally:
        cache.in_universe[:] = kept
    outside = cache.code_index[batch.rows] == 2
    assert outside.sum() == 1
    assert batch.ranked.numpy().tolist() == (~outside).tolist()
    assert torch.isnan(batch.labels[outside]).all()
    assert torch.isfinite(batch.targets[outside]).all()
    assert read.batch(np.array([50])).ranked.all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
def test_runs_hold_every_day_once_in_consecutive_runs(
    planted: Cache, days_per_step: int, seed: int, epoch: int
) -> None:
    read = reader(planted)
    days = np.array([*range(25, 40), *range(50, 71)])
    runs = read.runs(days, days_per_step, seed, epoch)
    assert sorted(np.concatenate(runs).tolist()) == days.tolist()
    assert all((np.diff(run) == 1).all() and 1 <= len(run) <= days_per_step for run in runs)
    again = read.runs(days, days_per_step, seed, epoch)
    assert [r.tolist() for r in runs] == [r.tolist() for r in again]


def test_runs_change_with_the_epoch(planted: Cache) -> None:
    read = reader(planted)
    days = np.arange(25, 70)
    forms = {tuple(int(r[0]) for r in read.runs(days, 4, 0, epoch)) for epoch in range(8)}
    assert len(forms) == 8
    assert len({min(len(r) for r in read.runs(days, 4, 0, e)) for e in range(8)}) > 1  # the first cut lies elsewhere


def test_days_per_step(cache: Cache) -> None:
    read = reader(cache)
    assert read.median_stocks_per_day == 13
    assert [read.days_per_step(b) for b in (1, 13, 30, 4096)] == [1, 1, 2, 315]


def test_pain_14_features_are_selected_by_name_and_missing_ones_named(cache: Cache) -> None:
    some = reader(cache, features=("volume_20", cache.market_names[1], "return_5"))
    assert some.feature_names == ("volume_20", "return_5", cache.market_names[1])
    batch = some.batch(np.array([60]))
    columns = [cache.feature_names.index(n) for n in ("volume_20", "return_5")]
    np.testing.assert_array_equal(batch.x[batch.windows[:, -1], :2].numpy(), cache.features[batch.rows][:, columns])
    assert reader(cache).num_features == len(cache.feature_names) + len(cache.market_names)
    with pytest.raises(DataError, match="missing features \\['turnover'\\]"):
        reader(cache, features=("turnover",))
    with pytest.raises(DataError, match=r"no targets for horizons \[3\]"):
        reader(cache, horizons=(3, 5))


def test_windows_longer_than_the_panel_are_refused(cache: Cache) -> None:
    with pytest.raises(DataError, match="no stock has 91 trading days in a row"):
        reader(cache, window=91)
    with pytest.raises(DataError, match="no stock has a full window"):
        reader(cache).batch(np.array([3]))
    with pytest.raises(ValueError, match="not consecutive"):
        reader(cache).batch(np.array([40, 42]))


def test_reading_writes_nothing_into_the_map(cache: Cache) -> None:
    batch = reader(cache).batch(np.arange(40, 43))
    before = float(cache.features[batch.rows[0], 0])
    batch.x.zero_()
    batch.targets.fill_(math.nan)
    assert float(cache.features[batch.rows[0], 0]) == before


def test_pain_19_features_are_normalised_in_the_build_and_nowhere_else(cache: Cache) -> None:
    """Training, validation and prediction read the exact values that the build wrote."""
    library = Path(atft.__file__).parent
    sources = {p.relative_to(library).as_posix(): p.read_text() for p in library.rglob("*.py")}
    users = {name for name, text in sources.items() if re.search(r"\b(CrossSection|past_normalised)\b", text)}
    assert {name.partition("/")[0] for name in users} == {"data"}
    assert not users & {"data/windows.py", "data/cache.py", "data/batch.py", "data/labels.py"}
    for days in ([30], [30, 31, 32], list(range(25, 60))):
        batch = reader(cache).batch(np.array(days))
        last = batch.x[batch.windows[:, -1]].numpy()
        width = len(cache.feature_names)
        np.testing.assert_array_equal(last[:, :width], cache.features[batch.rows])
        np.testing.assert_array_equal(last[:, width:], cache.market[cache.day_index[batch.rows]])
