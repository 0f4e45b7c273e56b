"""The demo: its spec for any panel, its standard errors and its verdict."""

from pathlib import Path

import pyarrow.parquet
import pytest

from atft.spec.job import TrainSpec
from atft.spec.split_plan import count, plan_split
from client.demo.prices import job_spec, packaged_prices, standard_error, verdict


@pytest.mark.parametrize(("num_days", "num_codes"), [(8313, 20), (2000, 500), (300, 10), (120, 40)])
def test_the_spec_is_valid_for_the_size_of_the_panel(num_days: int, num_codes: int) -> None:
    spec = TrainSpec.model_validate(job_spec("prices", num_days, num_codes))
    (fold,) = plan_split(num_days, spec.data.window, max(spec.data.horizons), spec.split).folds
    assert count(fold.train) >= 2
    assert count(fold.train) * num_codes <= max(60_000, 120 * num_codes)


def figures(rank_ic: float, icir: float | None) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for horizon in (1, 5, 10, 20):
        values |= {
            f"test/rank_ic@{horizon}d": rank_ic,
            f"test/rank_icir@{horizon}d": icir,
            f"test/num_days@{horizon}d": 250.0,
        }
    return values


def test_the_standard_error_counts_overlapping_labels() -> None:
    values = figures(0.02, 0.1)
    assert standard_error(values, 1) == pytest.approx(0.2 / 250**0.5)
    assert standard_error(values, 20) == pytest.approx(0.2 / (250 / 20) ** 0.5)


def test_verdict_is_insufficient_evidence_significant_or_undefined() -> None:
    assert "Insufficient evidence" in verdict(figures(0.01, 0.05))
    assert "1d" in verdict(figures(0.10, 0.5))
    assert "undefined" in verdict(figures(0.10, None))
    assert "undefined" in verdict({})


def test_the_packaged_prices_have_every_day_and_no_gaps(tmp_path: Path) -> None:
    table = pyarrow.parquet.read_table(packaged_prices(tmp_path / "p.parquet"))
    assert table.column_names == ["date", "code", "close"]
    assert table.num_rows == 20 * 8313
    assert table["close"].null_count == 0
