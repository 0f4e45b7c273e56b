"""`python -m tests.same --before /path/to/checkout [--after /path/to/checkout] [--out FILE.json]`: whether two
checkouts of the product give bit-equal results.

With each one a planted dataset is built, RUNS are run on it through `python -m atft`, and a study is run through its
`atft up`, all on the CPU with one thread; both checkouts work at the same time, each with its own virtual environment.
Compared are all metrics, the evidence, the events, the files and what the service answers about the study; what is not
compared is listed at the start. Exit code 0: all is the same; 1: something differs; 2: a checkout could not be used.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import httpx

from tests.same import runs, study
from tests.same.checkouts import Checkout, CheckoutError
from tests.same.values import (
    BY_FIELD,
    EXCLUDED,
    EXCLUDED_EVENTS,
    EXCLUDED_FILES,
    MASKED,
    Comparison,
    Results,
    compare,
)

SHOWN = 20  # differences of one comparison that are printed; --out has all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.same", description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="checkout with a .venv of its own")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[2], help="default: this checkout")
    parser.add_argument("--out", type=Path, help="the comparisons as JSON")
    options = parser.parse_args()
    began = time.monotonic()
    print("\n".join(excluded()), flush=True)
    work = Path(tempfile.mkdtemp(prefix="atft-same-"))
    work.chmod(0o755)  # as root the embedded servers run as another user
    try:
        sides = [_checkout("before", options.before, work), _checkout("after", options.after, work)]
        for side in sides:
            side.verify()
        with ThreadPoolExecutor(len(sides)) as pool:
            before, after = pool.map(_results, sides)
    except (CheckoutError, httpx.HTTPError, subprocess.SubprocessError) as error:
        print(f"nothing was compared: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(work, ignore_errors=True)
    comparisons = compare(before, after)
    same = all(one.same for one in comparisons)
    for side in sides:
        print(f"{side.name}: {side.root}, commit {', '.join(sorted(side.commits))}")
    print("\n".join([*_other_versions(*sides), *table(comparisons)]))
    count, seconds = sum(one.count for one in comparisons), time.monotonic() - began
    verdict = "same" if same else "DIFFERENT"
    print(f"{verdict}: {count} values in {len(comparisons)} comparisons ({seconds:.0f} s)")
    if options.out is not None:
        report = {
            "same": same,
            "values": count,
            "seconds": round(seconds, 1),
            "sides": {side.name: {"commits": sorted(side.commits)} for side in sides},
            "excluded": excluded(),
            "comparisons": [asdict(one) | {"same": one.same} for one in comparisons],
        }
        options.out.write_text(json.dumps(report, indent=1))
    return 0 if same else 1


def _checkout(name: str, root: Path, work: Path) -> Checkout:
    folder = work / name
    folder.mkdir()
    folder.chmod(0o755)
    return Checkout(name=name, root=root.resolve(), work=folder)


def _results(checkout: Checkout) -> Results:
    """All that one checkout gives. Raises CheckoutError."""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    return runs.results(checkout, say) | study.results(checkout, say)


def excluded() -> list[str]:
    """What is not compared, a line each."""
    return [
        "not compared:",
        *(f"  values at {pattern}: {why}" for pattern, why in EXCLUDED),
        *(f"  events of type {kind}: {why}" for kind, why in EXCLUDED_EVENTS),
        *(f"  file {name}: {why}" for name, why in EXCLUDED_FILES),
        *(f"  file {name} is compared by field: {why}" for name, why in BY_FIELD),
        *(f"  {part} in values at {pattern} is masked: {why}" for pattern, part, why in MASKED),
        f"  of a job: all fields but {', '.join(study.JOB_FIELDS)}",
    ]


def _other_versions(before: Checkout, after: Checkout) -> list[str]:
    """Libraries that the two environments have in other versions: not a difference, but it may explain one."""
    names = sorted(before.versions.keys() | after.versions.keys())
    pairs = {name: (before.versions.get(name), after.versions.get(name)) for name in names}
    return [f"note: {name} is {old} before and {new} after" for name, (old, new) in pairs.items() if old != new]


def table(comparisons: list[Comparison]) -> list[str]:
    """A line for each comparison, and under it what differs."""
    lines = []
    for one in comparisons:
        word = "same" if one.same else "DIFFERENT" if one.count else "EMPTY"
        lines.append(f"{word:<10}{one.count:>7} values  {one.name}")
        lines += [
            f"    {item.path}\n        before: {_short(item.before)}\n        after:  {_short(item.after)}"
            for item in one.differences[:SHOWN]
        ]
        if len(one.differences) > SHOWN:
            lines.append(f"    and {len(one.differences) - SHOWN} more")
    return lines


def _short(text: str | None) -> str:
    return "(none)" if text is None else text if len(text) <= 200 else f"{text[:200]}…"


if __name__ == "__main__":
    sys.exit(main())
