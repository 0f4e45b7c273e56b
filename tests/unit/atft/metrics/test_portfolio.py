from typing import Any

import numpy as np
import pytest

from atft.metrics import portfolio
from atft.metrics.portfolio import Evaluation, evaluate
from atft.spec.metric import METRICS, VAL
from atft.spec.training import EvaluationSpec

NAMES = {metric.name for metric in METRICS if VAL in metric.scopes and metric.by_horizon and metric.each_epoch}


def panel(days: int = 30, names: int = 20, horizons: int = 2, skill: float = 0.3, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    targets = 0.02 * generator.normal(size=(days * names, horizons))
    scores = skill * targets / 0.02 + generator.normal(size=targets.shape)
    return {
        "scores": scores.astype(np.float32),
        "targets": targets.astype(np.float32),
        "day": np.repeat(np.arange(days), names),
        "code": np.tile(np.arange(names), days),
        "dates": [f"2020-01-{d:02d}" for d in range(days)],
        "horizons": (1, 5, 10, 20)[:horizons],
        "min_names": 5,
        "evaluation": EvaluationSpec(cost_bps=10.0),
    }


def slow_long_short(
    scores: np.ndarray, targets: np.ndarray, code: np.ndarray, quantile: float
) -> tuple[float, dict[int, float]]:
    """One day, by sorting a list."""
    rows = sorted(zip(scores, code, targets, strict=True))
    size = max(1, int(len(rows) * quantile))
    low, high = rows[:size], rows[-size:]
    weights = {int(c): -1 / size for _, c, _ in low} | {int(c): 1 / size for _, c, _ in high}
    return sum(t for *_, t in high) / size - sum(t for *_, t in low) / size, weights


def test_long_short_and_turnover_equal_a_slow_reference() -> None:
    generator = np.random.default_rng(0)
    day = np.repeat([0, 1, 2, 3], [11, 20, 3, 13])
    code = np.concatenate([generator.permutation(25)[:n] for n in (11, 20, 3, 13)])
    scores, targets = generator.normal(size=47).round(1), generator.normal(size=47)
    order = generator.permutation(47)
    result = portfolio.long_short(
        scores[order], targets[order], day[order], code[order], num_days=5, min_names=4, quantile=0.2
    )
    assert np.isnan(result.returns).tolist() == [False, False, True, False, True]
    held: dict[int, float] = {}
    for number in range(4):
        mine = day == number
        gain, weights = slow_long_short(scores[mine], targets[mine], code[mine], 0.2) if number != 2 else (np.nan, {})
        if number != 2:
            assert result.returns[number] == pytest.approx(gain)
        assert {c: w for c, w in enumerate(result.weights[number]) if w} == pytest.approx(weights)
        traded = sum(abs(weights.get(c, 0.0) - held.get(c, 0.0)) for c in range(25)) / 2
        assert portfolio.turnover(result.weights)[number] == pytest.approx(traded)
        held = weights


def test_constant_scores_hold_nothing() -> None:
    targets = np.random.default_rng(0).normal(size=10)
    result = portfolio.long_short(
        np.zeros(10), targets, np.zeros(10, dtype=int), np.arange(10), num_days=1, min_names=3, quantile=0.2
    )
    assert np.isnan(result.returns[0])
    assert not result.weights.any()


def test_sharpe_and_drawdown() -> None:
    returns = np.array([0.01, -0.02, 0.03, 0.01])
    assert portfolio.sharpe(returns, 252.0) == pytest.approx(returns.mean() / returns.std(ddof=1) * np.sqrt(252))
    assert portfolio.max_drawdown(returns) == pytest.approx(-0.02)
    assert portfolio.max_drawdown(np.array([-0.1, 0.05, -0.2])) == pytest.approx(0.9 * 1.05 * 0.8 - 1)
    assert portfolio.max_drawdown(np.array([0.1, 0.1])) == 0
    assert portfolio.max_drawdown(np.array([0.1, -1.5, -3.0, 0.2])) == -1.0
    assert portfolio.max_drawdown(np.empty(0)) is None
    assert portfolio.sharpe(np.array([0.1]), 252.0) is None
    assert portfolio.sharpe(np.full(4, 0.1), 252.0) is None


def test_evaluate_names_every_metric_for_every_horizon() -> None:
    result = evaluate(**panel())
    assert set(result.values) == {name + suffix for name in NAMES for suffix in ("", "@1d", "@5d")}
    assert all(isinstance(value, float) and np.isfinite(value) for value in result.values.values())
    assert set(result.daily) == {(name, horizon) for name in ("ic", "rank_ic", "long_short") for horizon in (1, 5)}
    assert all(len(series) == 30 for series in result.daily.values())
    assert result.values["rank_ic"] == pytest.approx((result.values["rank_ic@1d"] + result.values["rank_ic@5d"]) / 2)
    assert result.values["rank_ic@1d"] == pytest.approx(np.mean(result.daily["rank_ic", 1]))
    assert result.values["num_days@5d"] == 30
    assert result.lags == {1: 3, 5: 4}
    assert result.degenerate == ()


def test_portfolio_metrics_use_days_that_do_not_overlap() -> None:
    inputs = panel()
    result = evaluate(**inputs)
    for horizon in (1, 5):
        returns = np.array(result.daily["long_short", horizon])[::horizon]
        sharpe = returns.mean() / returns.std(ddof=1) * np.sqrt(252 / horizon)
        assert result.values[f"sharpe_ann@{horizon}d"] == pytest.approx(sharpe)
        assert result.values[f"sharpe_daily@{horizon}d"] == pytest.approx(sharpe / np.sqrt(252))
        assert result.values[f"sharpe_net_ann@{horizon}d"] < sharpe
        assert result.values[f"spread@{horizon}d"] == pytest.approx(np.mean(result.daily["long_short", horizon]))
    free = evaluate(**{**inputs, "evaluation": EvaluationSpec(cost_bps=0.0)})
    assert free.values["sharpe_net_ann@5d"] == pytest.approx(free.values["sharpe_ann@5d"])


def test_costs_are_paid_on_what_is_traded() -> None:
    """The same scores every day: bought once (turnover 1 of a portfolio of size 2), then never traded."""
    inputs = panel(horizons=1)
    inputs["scores"] = np.tile(inputs["scores"][:20], (30, 1))
    result = evaluate(**inputs)
    assert result.values["turnover"] == 0
    gross = np.array(result.daily["long_short", 1])
    net = gross - np.r_[1.0, np.zeros(29)] * 10 / 1e4
    assert result.values["sharpe_net_ann"] == pytest.approx(net.mean() / net.std(ddof=1) * np.sqrt(252))


def test_pain_32_constant_scores_give_null_everywhere_and_a_warning() -> None:
    inputs = panel()
    inputs["scores"] = np.zeros_like(inputs["scores"])
    result = evaluate(**inputs)
    for name in (
        "ic",
        "rank_ic",
        "icir",
        "rank_icir",
        "ic_t",
        "hit_rate",
        "sharpe_ann",
        "sharpe_net_ann",
        "turnover",
        "max_drawdown",
        "spread",
    ):
        assert result.values[f"{name}@1d"] is None
        assert result.values[name] is None
    assert result.values["num_days@1d"] == 0
    assert result.values["num_undefined_days@1d"] == 30
    assert result.daily["rank_ic", 1] == [None] * 30
    assert result.degenerate == (1, 5)


def test_one_undefined_horizon_leaves_the_mean_undefined() -> None:
    inputs = panel()
    inputs["targets"][:, 1] = np.nan
    result = evaluate(**inputs)
    assert result.values["rank_ic@1d"] is not None
    assert result.values["rank_ic@5d"] is None
    assert result.values["rank_ic"] is None


def test_unknown_targets_are_left_out() -> None:
    inputs = panel(horizons=1)
    inputs["targets"][::3] = np.nan
    known = np.isfinite(inputs["targets"][:, 0])
    short = {
        key: value[known] if key in {"scores", "targets", "day", "code"} else value for key, value in inputs.items()
    }
    with_gaps, without = evaluate(**inputs), evaluate(**short)
    assert with_gaps.values["rank_ic"] == without.values["rank_ic"]
    assert with_gaps.values["sharpe_ann"] == without.values["sharpe_ann"]


def test_pain_24_a_score_that_is_not_finite_is_an_error_with_its_day() -> None:
    inputs = panel()
    inputs["scores"][45, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 600 scores are not finite, first on 2020-01-02"):
        evaluate(**inputs)


def test_order_of_samples_does_not_matter() -> None:
    inputs = panel()
    order = np.random.default_rng(1).permutation(600)
    shuffled = {
        key: value[order] if key in {"scores", "targets", "day", "code"} else value for key, value in inputs.items()
    }
    assert evaluate(**shuffled).values == pytest.approx(evaluate(**inputs).values)


def test_permuting_scores_within_days_destroys_the_skill() -> None:
    inputs = panel(days=200, names=40, horizons=1, skill=0.5)
    skilled = evaluate(**inputs)
    generator = np.random.default_rng(2)
    inputs["scores"] = np.concatenate([generator.permutation(inputs["scores"][inputs["day"] == d]) for d in range(200)])
    luck = evaluate(**inputs)
    assert skilled.values["rank_ic"] > 0.35
    assert abs(luck.values["rank_ic"]) < 0.04
    assert skilled.values["sharpe_ann"] > 5 * abs(luck.values["sharpe_ann"])
    assert any("leak" in text for text in skilled.warnings)


def test_drifting_scores_give_a_warning() -> None:
    inputs = panel(horizons=1)
    inputs["scores"] += inputs["day"][:, None].astype(np.float32)
    assert any("drift" in text for text in evaluate(**inputs).warnings)
    inputs = panel(horizons=1)
    same: Evaluation = evaluate(**inputs, reference=inputs["scores"])
    assert same.values["psi"] == pytest.approx(0.0)
