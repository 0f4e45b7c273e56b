"""`python -m atft bench planted`: the table and the JSON file agree, and bad sizes are usage errors."""

import json
from pathlib import Path

import pytest

from atft import __main__ as program
from atft.bench import ceilings


def test_a_mode_with_theory_and_one_without_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ceilings, "FIT_PANELS", 1)
    monkeypatch.setattr(ceilings, "FIT_DAYS", 150)
    sizes = ["--num-codes", "40", "--num-days", "130", "--num-features", "4", "--horizons", "5", "1", "--seeds", "2"]
    file = tmp_path / "planted.json"
    modes = ["--mode", "theory", "--mode", "null"]
    assert program.main(["bench", "planted", *modes, *sizes, "--json", str(file)]) == 0
    table, log = capsys.readouterr()
    written = json.loads(file.read_text())
    assert written["settings"]["num_codes"] == 40
    rows = {(row["mode"], row["horizon"]): row for row in written["rows"]}
    assert list(rows) == [("theory", 1), ("theory", 5), ("null", 1), ("null", 5)]
    theory = rows["theory", 1]
    assert theory["theory_exact"] == pytest.approx(0.057707, abs=1e-6)
    assert abs(theory["true"] - theory["theory_exact"]) < 4 * theory["true_error"]
    assert theory["gain"] < 0.05
    assert all(rows["null", 1][name] is None for name in ("true", "observed", "theory", "gain"))
    line = next(text for text in table.splitlines() if text.split()[:2] == ["theory", "1"])
    assert f"{theory['true']:.4f}" in line
    assert line.count("±") == 5
    assert log.count("build") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-days", "100"], "at least 140"),
        (["--num-codes", "3"], "num_codes"),
        (["--seeds", "0"], "must be at least 1"),
    ],
)
def test_bad_sizes_are_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["bench", "planted", "--mode", "theory", *arguments]) == program.USAGE
    assert message in capsys.readouterr().err
