"""The build's version follows what a build computes, and nothing else."""

import pytest

from atft.data.builder.version import build_version, source_digest

FORMULA = '''
"""Formulas."""
from somewhere import mean

DAYS = 20  # a month

def trend(x: float, *, d: int = DAYS) -> float:
    """The trend."""
    return mean(x, d) / x - 1
'''


def test_todays_formulas_have_todays_version() -> None:
    # A build that computes other numbers has another version: write the new one here, on purpose. A change of the
    # sources that leaves every number as it is keeps the version: add its digest to `_VERSIONS` in version.py.
    assert build_version() == 4


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Formulas.", "All formulas."),
        ("The trend.", "The trend of x."),
        ("from somewhere import mean", "from elsewhere import (\n    mean,\n)"),
        ("  # a month", ""),
        ("x: float", "x: int"),
        (" -> float", ""),
        ("mean(x, d) / x - 1", "(\n        mean(x, d) / x\n        - 1\n    )"),
    ],
)
def test_what_computes_nothing_keeps_the_version(old: str, new: str) -> None:
    assert old in FORMULA
    assert source_digest([FORMULA.replace(old, new)]) == source_digest([FORMULA])


@pytest.mark.parametrize(
    ("old", "new"),
    [("DAYS = 20", "DAYS = 21"), ("- 1", "+ 1"), ("/ x", "// x"), ("d: int = DAYS", "d: int = 5"), ("- 1", "- None")],
)
def test_other_formulas_and_parameters_have_another_version(old: str, new: str) -> None:
    assert old in FORMULA
    assert source_digest([FORMULA.replace(old, new)]) != source_digest([FORMULA])


def test_the_digest_is_that_of_every_version_of_python() -> None:
    assert source_digest([FORMULA]) == "4987ba66ebff06f472a857023dd1e79e"
