"""The documentation agrees with the code: tables are compared, and code blocks are run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from atft.data.builder.run import BuildResult
from atft.data.cache.reader import Cache
from atft.data.checks.limits import CHECKS
from atft.data.checks.screens import LEAKS
from atft.data.features.compute import feature_set
from atft.data.features.market import DERIVED

Builder = Callable[..., tuple[Cache, BuildResult]]
DOCS = Path(__file__).resolve().parents[4] / "docs"
ROLES = ("open", "high", "low", "close", "volume", "sector")


def table(*rows: tuple[str, ...]) -> str:
    head, *body = rows
    lines = [head, ("---",) * len(head), *body]
    return "\n".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |" for line in lines)


def number(limit: float | None) -> str:
    return "" if limit is None else f"{limit:g}"


TABLES = {
    "features.md": [
        table(("feature", "formula"), *((f"`{f.name}`", f.formula) for f in feature_set(ROLES))),
        table(("column", "formula"), *((f"`{name}`", formula) for name, formula in DERIVED.items())),
    ],
    "data-checks.md": [
        table(
            ("check", "value", "warn above", "refuse above", "what to ask"),
            *((f"`{c.name}`", c.value, number(c.warn), number(c.refuse), c.advice) for c in CHECKS.values()),
        ),
        table(("", "leak", "looked for"), *((str(n), leak, where) for n, (leak, where) in LEAKS.items())),
    ],
}


@pytest.mark.parametrize("page", list(TABLES))
def test_tables_in_the_docs_equal_the_code(page: str) -> None:
    text = (DOCS / page).read_text()
    for wanted in TABLES[page]:
        assert wanted in text
    assert len(re.findall(r"^\|(?: -+ \|)+$|^\| ---", text, re.MULTILINE)) == len(TABLES[page])


def test_code_in_the_docs_reads_the_cache(
    builder: Builder, prices: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every code block of the page runs, in order, in one namespace."""
    cache, _ = builder(prices)
    (tmp_path / "cache").symlink_to(cache.path)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "cache.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    found: dict[str, Any] = {}
    exec(blocks[0], found)
    np.testing.assert_array_equal(found["features"], cache.features)
    exec(blocks[1], found)
    column = cache.feature_names.index("return_20")
    ranked = cache.valid & cache.in_universe
    np.testing.assert_array_equal(found["picked"]["return_20"], cache.features[ranked, column])
    np.testing.assert_array_equal(found["picked"]["target_5d"], cache.targets[ranked, 1])
    assert found["rank_ic"]["return_20"].is_between(-1, 1).sum() > 50
    exec(blocks[2], found)
    known = ranked & np.isfinite(cache.targets[:, 1])
    monthly = pl.from_arrow(found["monthly"])
    assert isinstance(monthly, pl.DataFrame)
    assert monthly["rows"].sum() == known.sum()
    first = cache.days[cache.day_index].astype("datetime64[M]") == cache.days[0].astype("datetime64[M]")
    assert monthly["mean_target"][0] == pytest.approx(cache.targets[known & first, 1].mean(), rel=1e-5)
