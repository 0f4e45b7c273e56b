"""Science 6.6: a leaked feature is refused, by name or by |daily RankIC| > .2, unless it is in `allow_leaks`."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from atft.data.builder.run import BuildResult
from atft.data.cache.reader import Cache
from atft.data.checks import leaks
from atft.data.checks.leaks import FutureReturn, daily_rank_ic, sample_days, screen_rank_ics
from atft.data.panel.planted import LEAK_NAME
from atft.data.schema import DataError
from atft.spec.data import PlantedSpec
from atft.spec.reason import Reason

Builder = Callable[..., tuple[Cache, BuildResult]]


def with_future(prices: pl.DataFrame, name: str, noise: float) -> pl.DataFrame:
    rng = np.random.default_rng(5)
    future = (pl.col("close").shift(-6) / pl.col("close").shift(-1) - 1).over("code")
    return prices.with_columns((future + noise * pl.Series(rng.standard_normal(prices.height))).alias(name))


def test_rank_ic_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    x = np.round(rng.standard_normal((40, 3)), 1).astype(np.float32)  # ties
    x[:9, 1] = [0.0, -0.0, 3e38, -3e38, 1e-45, -1e-45, 0.0, -0.0, 0.0]
    y = rng.standard_normal(40).astype(np.float32)
    y[3] = np.nan
    known = np.isfinite(y)
    want = [spearmanr(x[known, j], y[known]).statistic for j in range(3)]
    np.testing.assert_allclose(daily_rank_ic(x, y), want, rtol=1e-6)
    assert np.isnan(daily_rank_ic(np.ones((40, 1), np.float32), y)).all()
    assert np.isnan(daily_rank_ic(x[:4], y[:4])).all()


@pytest.mark.parametrize("max_cells", [0, 2_500, 10**8])
def test_the_number_of_copied_days_does_not_change_the_report(monkeypatch: pytest.MonkeyPatch, max_cells: int) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((30 * 40, 3)).astype(np.float32)
    ranked = rng.random(len(x)) < 0.9
    later = (x[:, 1] + 0.1 * rng.standard_normal(len(x))).astype(np.float32)
    future = [FutureReturn(name="target_1d", horizon=1, limit=0.2, values=later)]
    offsets, rows = np.arange(0, len(x) + 1, 40), rng.permutation(len(x))
    monkeypatch.setattr(leaks, "MAX_CELLS", max_cells)
    found = sample_days(x, ranked, offsets, rows)
    assert 0 < len(found.copied) < 30 or max_cells != 2_500
    days = [rows[a : a + 40] for a in offsets[:-1]]
    want = np.mean([daily_rank_ic(x[d[ranked[d]]], later[d[ranked[d]]]) for d in days], axis=0)
    report = screen_rank_ics(found, future, ["a", "b", "c"])
    assert report["num_days"] == 30
    assert [s["feature"] for s in report["suspected"]] == ["b"]  # type: ignore[attr-defined]
    got = {s["feature"]: s["rank_ic"] for s in report["strongest"]}  # type: ignore[attr-defined]
    np.testing.assert_allclose([got[n] for n in "abc"], want, atol=1e-6)


def test_a_feature_made_of_the_future_is_refused(builder: Builder, prices: pl.DataFrame) -> None:
    with pytest.raises(
        DataError, match=r"'quality' has a mean daily RankIC of \+0\.\d+ with the 5-day target"
    ) as caught:
        builder(with_future(prices, "quality", 0.03))
    assert caught.value.reason == Reason.LEAK_SUSPECTED
    _, result = builder(with_future(prices, "quality", 0.03), allow_leaks=("quality",))
    assert result.leak_report["allowed"] == ["quality"]
    assert result.leak_report["suspected"][0]["feature"] == "quality"  # type: ignore[index]
    with pytest.raises(DataError, match=r"'nothing'.*are not features"):
        builder(prices, allow_leaks=("nothing",))


def test_a_feature_named_like_a_target_is_refused_whatever_it_holds(builder: Builder, prices: pl.DataFrame) -> None:
    rng = np.random.default_rng(6)
    with pytest.raises(DataError, match="'fwd_score' is named like a target") as caught:
        builder(prices.with_columns(fwd_score=pl.Series(rng.standard_normal(prices.height))))
    assert caught.value.reason == Reason.LEAK_SUSPECTED


def test_honest_features_pass(builder: Builder, prices: pl.DataFrame) -> None:
    _, result = builder(prices)
    assert result.leak_report["suspected"] == []
    assert result.leak_report["named_like_targets"] == []


def test_detectors_fire_on_the_planted_leak(builder: Builder) -> None:
    leaking = PlantedSpec(num_codes=40, num_days=120, num_features=6, mode="leak")
    with pytest.raises(DataError, match=LEAK_NAME) as caught:
        builder(planted=leaking)
    assert caught.value.reason == Reason.LEAK_SUSPECTED
    cache, _ = builder(planted=leaking, allow_leaks=(LEAK_NAME,))
    assert LEAK_NAME in cache.feature_names
    strong = PlantedSpec(num_codes=40, num_days=120, num_features=6, signal=1.0, mode="theory")
    assert builder(planted=strong)[1].leak_report["suspected"]  # strong on purpose: reported, not refused
