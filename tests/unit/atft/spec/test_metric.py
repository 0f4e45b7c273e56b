"""The table of metrics is whole, and its page says what it says."""

from pathlib import Path

import pytest

from atft.spec import metric
from atft.spec.metric import METRICS, Metric, full_name, lower_is_better

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "metrics.md"


def test_every_name_is_there_once_and_every_place_is_taken_once() -> None:
    assert len({one.name for one in METRICS}) == len(METRICS)
    for chosen in ("objective", "compared", "shown"):
        places = sorted(getattr(one, chosen) for one in METRICS if getattr(one, chosen))
        assert places == list(range(1, len(places) + 1)), chosen


def test_an_epoch_is_chosen_in_the_direction_that_is_better() -> None:
    assert all(one.better for one in METRICS if one.objective)
    assert lower_is_better("val/loss")
    assert not lower_is_better(full_name(metric.VAL, metric.RANK_IC, 5))
    assert not lower_is_better("val/unknown")


def row(one: Metric) -> str:
    uses = {"chosen on": one.objective, "compared": one.compared, "shown": one.shown}
    cells = (
        f"`{one.name}`", one.doc.replace("|", r"\|"), ", ".join(one.scopes) or "daily", one.unit,
        one.better or "", ", ".join(use for use, place in uses.items() if place),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def test_the_reference_page_has_every_row() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    if rows != [row(one) for one in METRICS]:
        pytest.fail("the table in docs/reference/metrics.md is to be:\n" + "\n".join(map(row, METRICS)))
