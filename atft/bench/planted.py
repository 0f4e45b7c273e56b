"""`python -m atft bench planted`: the planted panel's ceilings, simulated, beside theory where there is one."""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from atft.bench.ceilings import WARMUP, Ceiling, Estimate, Theory, ceilings, theory
from atft.data.schema import DataError
from atft.spec.data import PlantedMode, PlantedSpec

FAILED, USAGE = 1, 2
MODES: tuple[PlantedMode, ...] = get_args(PlantedMode)
COLUMNS = ("true", "observed", "observed_truth", "regression_truth", "gain")
ABOUT = f"""\
Mean daily RankIC from day {WARMUP} on, with its standard error (cosine estimator); each on the builder's own targets.
  true         the score that knows the signals;  observed  E[score | history of the features], the ceiling of a model
  theory       first order in the signal, and (exact) to all orders; only mode theory has one
  of truth     mean daily rank correlation with the true score itself: of the observed-history oracle, and of a
               regression on {WARMUP} days of history that was fitted to true scores (no noise); gain is its lead, never
               above 0 beyond noise where the oracle is a ceiling
- is undefined (mode null has no signal; a cycle's sum over its period is 0)."""


def main(options: argparse.Namespace) -> int:
    """Run `bench planted` with the options of `atft/__main__.py`: table to standard output, progress to stderr."""
    horizons = sorted(set(options.horizons))
    try:
        if options.seeds < 1 or horizons[0] < 1:
            raise ValueError("--seeds and --horizons must be at least 1")
        rows = [row for mode in options.mode or MODES for row in _mode(options, mode, horizons)]
    except DataError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except (ValueError, ValidationError) as error:
        sys.stderr.write(f"python -m atft bench: {error}\n")
        return USAGE
    sys.stdout.write(f"{ABOUT}\n\n{_table(rows)}\n")
    if options.json is not None:
        settings = {name: value for name, value in vars(options).items() if name not in ("json", "command")}
        options.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1, allow_nan=False) + "\n")
    return 0


def _mode(options: argparse.Namespace, mode: PlantedMode, horizons: Sequence[int]) -> list[dict[str, object]]:
    panels: list[list[Ceiling]] = []
    for seed in range(options.seeds):
        spec = PlantedSpec(
            num_codes=options.num_codes,
            num_days=options.num_days,
            num_features=options.num_features,
            signal=options.signal,
            mode=mode,
            seed=seed,
        )
        start = time.monotonic()

        def report_progress(text: str, seed: int = seed, start: float = start) -> None:
            sys.stderr.write(f"{mode}, seed {seed}, {time.monotonic() - start:.0f} s: {text}\n")

        with tempfile.TemporaryDirectory(prefix="atft-bench-") as folder:
            panels.append(ceilings(spec, horizons, Path(folder) / "cache", report_progress))
    rows = []
    for k, horizon in enumerate(horizons):
        row: dict[str, object] = {"mode": mode, "horizon": horizon}
        for name in COLUMNS:
            estimate = _pooled([getattr(panel[k], name) for panel in panels])
            row |= {name: estimate.mean, f"{name}_error": estimate.error}
        known: Theory | None = theory(options.signal, horizon) if mode == "theory" else None
        row |= {"theory": known and known.rank_ic, "theory_exact": known and known.rank_ic_exact}
        rows.append(row)
    return rows


def _pooled(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over independent panels; undefined if it is in one of them."""
    means = [e.mean for e in estimates if e.mean is not None]
    errors = [e.error for e in estimates if e.error is not None]
    count = len(estimates)
    return Estimate(
        mean=sum(means) / count if len(means) == count else None,
        error=math.sqrt(sum(e * e for e in errors)) / count if len(errors) == count else None,
    )


def _table(rows: Sequence[dict[str, object]]) -> str:
    head = ("mode", "days", "true", "theory", "(exact)", "observed", "of truth", "regression", "gain")
    lines: list[tuple[str, ...]] = [head]
    for row in rows:
        cells = [_cell(row["theory"]), _cell(row["theory_exact"]), *(_with_error(row, name) for name in COLUMNS[1:])]
        lines.append((str(row["mode"]), str(row["horizon"]), _with_error(row, "true"), *cells))
    widths = [max(len(line[j]) for line in lines) for j in range(len(head))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)


def _with_error(row: dict[str, object], name: str) -> str:
    error = row[f"{name}_error"]
    return _cell(row[name]) if error is None else f"{_cell(row[name])} ±{error:.4f}"


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-"
