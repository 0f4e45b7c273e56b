"""Pain 20: anomalies of a panel are counted and named by their rows; too many of them refuse it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from atft.data.checks.limits import CHECKS, Check, Finding, check_findings
from atft.data.checks.profile import profile, summaries
from atft.data.panel.source import load
from atft.data.schema import DataError
from atft.spec.data import DatasetSpec

ProfileOf = Callable[[pl.DataFrame], dict[str, Any]]
NUMBER = pl.int_range(pl.len()).over("code", order_by="date")


@pytest.fixture
def profile_of(tmp_path: Path) -> ProfileOf:
    def go(frame: pl.DataFrame) -> dict[str, Any]:
        frame.write_parquet(tmp_path / "p.parquet")
        return profile(load(DatasetSpec(name="p", path=str(tmp_path / "p.parquet"), horizons=(1, 5))))

    return go


def states(about: dict[str, Any]) -> dict[str, str]:
    return {c["check"]: c["state"] for c in about["checks"]}


def test_a_clean_panel_has_every_check_and_its_numbers(profile_of: ProfileOf, prices: pl.DataFrame) -> None:
    about = profile_of(prices)
    assert {name for name, state in states(about).items() if state != "ok"} == {"few_names"}  # it has 14
    assert set(states(about)) <= set(CHECKS)
    assert about["num_filled_rows"] == 2
    assert about["num_listed_later"] == 1
    assert about["num_gone"] == 1
    assert about["columns"]["close"]["min"] == pytest.approx(prices["close"].min())
    assert about["columns"]["volume"]["mean"] == pytest.approx(prices["volume"].mean())
    coverage = about["coverage"]
    assert coverage["period"] == ["2020-01-01", "2020-02-01", "2020-03-01", "2020-04-01", "2020-05-01"]
    assert len(coverage["codes"]) == len(coverage["share"]) == 10
    missing = {(g, p) for g, row in enumerate(coverage["share"]) for p, x in enumerate(row) if x < 1}
    late = next(g for g, codes in enumerate(coverage["codes"]) if "B05" in codes)
    assert (late, 0) in missing
    assert max(about["names_series"]["max"]) == 14
    assert min(about["names_series"]["min"]) == 13
    assert len(about["names_series"]["day"]) == 90


ODD: dict[str, tuple[pl.Expr, str]] = {
    "jumps": (
        pl.when((pl.col("code") == "B01") & (NUMBER == 50)).then(pl.col("close") * 4).otherwise("close").alias("close"),
        "of B01 on 2020-03-11",
    ),
    "outside_range": (
        pl.when((pl.col("code") == "B04") & (NUMBER == 7)).then(pl.col("low") * 2).otherwise("low").alias("low"),
        "2020-01-10 B04",
    ),
    "zero_volume": (pl.when(NUMBER < 20).then(0.0).otherwise("volume").alias("volume"), "2020-01-01 B00"),
    "unchanged_close": (pl.col("close").first().over("code", NUMBER // 2).alias("close"), ""),
    "empty_close": (pl.when(NUMBER % 10 > 0).then("close").alias("close"), ""),
    "constant_columns": (pl.lit(7.0).alias("volume"), "'volume'"),
}


@pytest.mark.parametrize("check", list(ODD))
def test_pain_20_warnings_name_the_rows(profile_of: ProfileOf, prices: pl.DataFrame, check: str) -> None:
    change, rows = ODD[check]
    about = profile_of(prices.with_columns(change).drop(() if check == "outside_range" else ("open", "high", "low")))
    assert states(about)[check] == "warn"
    (message,) = (c["message"] for c in about["checks"] if c["check"] == check)
    assert rows in message
    assert message in about["warnings"]


REFUSED: dict[str, pl.Expr] = {
    "daily returns beyond ±50%": pl.when(NUMBER % 9 == 0).then(pl.col("close") * 4).otherwise("close").alias("close"),
    "outside of low … high": (pl.col("high") * 3).alias("low"),
    "closes equal to the day before": pl.col("close").first().over("code").alias("close"),
    "rows without a close": pl.when(NUMBER % 30 == 0).then("close").alias("close"),
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_pain_20_refusals_name_the_rows(profile_of: ProfileOf, prices: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=r"cannot be trusted.*limit") as caught:
        profile_of(prices.with_columns(REFUSED[message]).drop(() if "high" in message else ("open", "high", "low")))
    assert message in str(caught.value)


def test_gaps_thin_days_and_holes(profile_of: ProfileOf, prices: pl.DataFrame) -> None:
    day = pl.col("date").rank("dense")
    about = profile_of(prices.filter(~day.is_between(30, 45)))
    assert states(about)["calendar_gap"] == "warn"
    assert about["calendar_gaps"][0] == {"after": "2020-02-10", "calendar_days": 23}
    about = profile_of(prices.filter((day != 50) | (pl.col("code") == "B00")))
    assert about["thin_days"] == ["2020-03-10"]
    assert any("2020-03-10 with 1" in w for w in about["warnings"])
    about = profile_of(prices.filter((pl.col("code") != "B02") | (day < 5) | (day > 85)))
    assert about["num_filled_rows"] == 83
    assert any("B02 with 81 days" in w for w in about["warnings"])
    with pytest.raises(DataError, match="missing and filled as halts"):
        profile_of(prices.filter((pl.col("code").str.slice(1).cast(pl.Int32) + day) % 7 == 0))


def test_survivorship_gives_a_warning_in_long_panels_only(profile_of: ProfileOf) -> None:
    days = np.busday_offset(np.datetime64("2019-01-01"), np.arange(300)).astype("datetime64[D]")
    codes = [f"C{i:02d}" for i in range(40)]
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"date": np.repeat(days, 40), "code": codes * 300, "close": np.exp(0.01 * rng.standard_normal(12_000)) * 50}
    )
    assert states(profile_of(frame))["survivors"] == "warn"
    gone = frame.filter((pl.col("code") > "C05") | (pl.col("date") < pl.date(2019, 6, 1)))
    assert states(profile_of(gone))["survivors"] == "ok"
    assert profile_of(gone)["num_gone"] == 6
    short = profile_of(frame.filter(pl.col("date") < pl.date(2019, 10, 1)))
    assert next(c for c in short["checks"] if c["check"] == "survivors")["value"] is None


def test_limits_are_in_order_and_a_finding_knows_its_state() -> None:
    assert all(isinstance(c, Check) and (c.refuse is None or c.warn < c.refuse) for c in CHECKS.values())
    assert Finding(check="jumps", value=None).state == "ok"
    assert Finding(check="jumps", value=0.005).state == "warn"
    assert check_findings([Finding(check="jumps", value=0.0)]) == []
    with pytest.raises(DataError, match=r"50.000% \(9\), such as B7 on Monday.*limit 1.000%"):
        check_findings([Finding(check="jumps", value=0.5, count=9, rows=["B7 on Monday"])])


def test_a_column_without_values_has_no_range() -> None:
    nothing = pl.DataFrame(
        {"a": [float("nan"), float("inf"), None], "b": [1.0, float("nan"), 3.0], "c": ["x", None, "y"]}
    )
    assert summaries(nothing) == {
        "a": {"null_share": 1.0, "min": None, "max": None, "mean": None},
        "b": {"null_share": 1 / 3, "min": 1.0, "max": 3.0, "mean": 2.0},
        "c": {"null_share": 1 / 3, "min": None, "max": None, "mean": None},
    }


def test_a_column_whose_sum_overflows_has_no_mean(profile_of: ProfileOf, prices: pl.DataFrame) -> None:
    sign = pl.when(pl.int_range(pl.len()) % 3 == 0).then(-1.0).otherwise(1.0)
    about = profile_of(prices.with_columns(far=1.7e308 * sign, volume=1.7e308))
    assert about["columns"]["far"] == {"null_share": 0.0, "min": -1.7e308, "max": 1.7e308, "mean": None}
    assert about["columns"]["volume"]["mean"] is None
    json.dumps(about, allow_nan=False)


def test_shares_are_printed_in_per_cent() -> None:
    assert "30 names: 100.000%." in Finding(check="few_names", value=1.0).message
    assert "0.500% (7), such as" in Finding(check="jumps", value=0.005, count=7, rows=["x"]).message
    assert "calendar days: 20." in Finding(check="calendar_gap", value=20.0).message


def test_unordered_rows_give_a_warning(profile_of: ProfileOf, prices: pl.DataFrame) -> None:
    assert states(profile_of(prices.sort("date", "code")))["unordered_rows"] == "ok"
    assert states(profile_of(prices.sort("code", "date")))["unordered_rows"] == "ok"
    split = prices["date"] < pl.Series([prices["date"].unique().sort()[60]])
    about = profile_of(pl.concat([prices.filter(~split), prices.filter(split)]))
    (to_json,) = (c for c in about["checks"] if c["check"] == "unordered_rows")
    assert to_json["value"] == 14  # each code's later part came first
    assert "2020-03-24 B00" in to_json["message"]
