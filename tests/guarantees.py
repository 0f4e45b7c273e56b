"""Runs the tests of guarantees G1 to G14 and prints a table: `python -m tests.guarantees --times 3`. A test's name
begins with its guarantee (test_g4_…). Exit code 1: a test failed, or a guarantee has no test.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROMISES = (
    "a 202 means the job will run",
    "one Idempotency-Key and one body are one job",
    "only the current attempt can write",
    "a lost worker costs at most one checkpoint interval, no number changes",
    "terminal is final, history has no gap",
    "a cancelled job's processes are gone before it is cancelled",
    "SIGTERM to a worker saves and hands over, no request fails",
    "no retry storm: attempts are bounded, running out of memory halves the micro-batch",
    "a stream delivers each event once, in order",
    "replaying any batch changes nothing",
    "an artifact is visible only when whole",
    "with Postgres away no job dies, events wait",
    "backup and restore give the same answers",
    "every release upgrades a database of every earlier one",
)
NAME = re.compile(r"test_g(\d+)_\w+")


@dataclass
class Row:
    """Test results of one guarantee."""

    promise: str
    tests: Counter[str] = field(default_factory=Counter)  # runs by test; parametrized cases count as one test
    failed: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    seconds: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.guarantees", description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of guarantees")
    parser.add_argument("--out", type=Path, help="the table as JSON")
    options = parser.parse_args()
    numbers = options.only or range(1, len(PROMISES) + 1)
    rows = {number: Row(PROMISES[number - 1]) for number in numbers}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for run_number in range(1, options.times + 1):
            report = Path(folder) / f"{run_number}.xml"
            expression = " or ".join(f"test_g{number}_" for number in numbers)
            command = [sys.executable, "-m", "pytest", "-q", "-n0", "-k", expression, f"--junitxml={report}", "tests"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if not report.is_file():
                sys.stderr.write(done.stdout + done.stderr)
                return 2
            count(rows, report)
            print(f"{run_number} of {options.times}: {done.stdout.splitlines()[-1]}", file=sys.stderr, flush=True)
            if done.returncode:
                sys.stderr.write(done.stdout)
    print(table(rows, options.times, time.monotonic() - began))
    if options.out is not None:
        options.out.write_text(json.dumps({f"G{number}": asdict(row) for number, row in rows.items()}, indent=1))
    return 0 if all(row.runs and not row.failed for row in rows.values()) else 1


def count(rows: dict[int, Row], report: Path) -> None:
    """Add the results of one JUnit report. Skipped tests do not count."""
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        named = NAME.match(case.get("name", ""))
        if named is None or case.find("skipped") is not None:
            continue
        row = rows[int(named[1])]
        test = f"{case.get('classname', '').split('.test_')[0].replace('.', '/')}: {named[0]}"
        row.tests[test] += 1
        row.runs += 1
        row.seconds += float(case.get("time", "0"))
        if case.find("failure") is not None or case.find("error") is not None:
            row.failed[test] += 1


def table(rows: dict[int, Row], times: int, seconds: float) -> str:
    """The results as a text table."""
    lines = []
    for number, row in rows.items():
        end = f"{sum(row.failed.values())} FAILED" if row.failed else "kept" if row.runs else "NO TEST"
        lines.append(f"G{number:<3} {row.promise:72}{row.runs:5} runs {row.seconds:7.1f} s  {end}")
        lines += [f"       {runs:3} × {name}" for name, runs in sorted(row.tests.items())]
    runs, failed = sum(row.runs for row in rows.values()), sum(sum(row.failed.values()) for row in rows.values())
    return "\n".join([*lines, "", f"{times} times: {runs} runs, {failed} failed, {seconds:.0f} s"])


if __name__ == "__main__":
    sys.exit(main())
