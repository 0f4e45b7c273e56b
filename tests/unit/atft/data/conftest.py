"""Small panels: prices with a halt, a late listing and a delisting, and the caches built from them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from atft.data.builder.run import BuildResult, build
from atft.data.cache.reader import Cache
from atft.spec.data import DatasetSpec, PlantedSpec

HORIZONS = (1, 5)
HALTED, LATE, GONE = "B03", "B05", "B07"
Builder = Callable[..., tuple[Cache, BuildResult]]


@pytest.fixture(scope="session")
def prices() -> pl.DataFrame:
    """14 codes × 90 days, OHLCV and sector, sorted by (date, code): B03 halts on days 40 and 41, B05 lists on day 15,
    B07 ends on day 70.
    """
    rng = np.random.default_rng(3)
    days = np.busday_offset(np.datetime64("2020-01-01"), np.arange(90)).astype("datetime64[D]")
    market = 0.008 * rng.standard_normal(90)
    parts = []
    for i in range(14):
        close = (20 + 5 * i) * np.exp(np.cumsum(0.5 * market + 0.015 * rng.standard_normal(90)))
        opening = close * np.exp(0.004 * rng.standard_normal(90))
        parts.append(
            pl.DataFrame(
                {
                    "date": days,
                    "code": [f"B{i:02d}"] * 90,
                    "sector": [None if i == 13 else f"S{i % 3}"] * 90,
                    "open": opening,
                    "high": np.maximum(opening, close) * 1.004,
                    "low": np.minimum(opening, close) * 0.996,
                    "close": close,
                    "volume": np.round(1e5 * np.exp(0.3 * rng.standard_normal(90))),
                }
            )
        )
    frame = pl.concat(parts)
    number = pl.int_range(pl.len()).over("code")
    keep = (
        ~((pl.col("code") == HALTED) & number.is_in([40, 41]))
        & ~((pl.col("code") == LATE) & (number < 15))
        & ~((pl.col("code") == GONE) & (number > 70))
    )
    return frame.filter(keep).sort("date", "code")


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Write a frame (or plant a panel) and build it: (cache, result)."""

    def make(frame: pl.DataFrame | None = None, **settings: object) -> tuple[Cache, BuildResult]:
        folder = tmp_path_factory.mktemp("dataset")
        if frame is not None:
            frame.write_parquet(folder / "panel.parquet")
            settings["path"] = str(folder / "panel.parquet")
        spec = DatasetSpec.model_validate({"name": "test", "horizons": HORIZONS, **settings})
        result = build(spec, folder / "cache", lambda _: None, lambda: False)
        return Cache.open(folder / "cache", result.manifest.fingerprint), result

    return make


@pytest.fixture(scope="session")
def cache(builder: Builder, prices: pl.DataFrame) -> Cache:
    return builder(prices)[0]


@pytest.fixture(scope="session")
def planted(builder: Builder) -> Cache:
    return builder(planted=PlantedSpec(num_codes=20, num_days=80, num_features=6, seed=1))[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "new"
