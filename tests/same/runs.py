"""The runs without a service: each through `python -m atft`, its events and files as values."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from tests.same.checkouts import Checkout, CheckoutError
from tests.same.specs import DATASET, RUNS, Json, Run
from tests.same.values import EXCLUDED_EVENTS, Results, Values, files, parse, values

SOURCE_OPTION: Final = {"run": "--init-from", "predict": "--model"}
OTHER_EVENTS: Final = ("started", "log", "checkpointed", "finished")


def results(checkout: Checkout, say: Callable[[str], None]) -> Results:
    """What `checkout` gives for the dataset, for each of RUNS, and for what the runs added to the cache."""
    cache = checkout.work / "cache"
    events, seconds = _events(checkout, "dataset", "build", DATASET, ["--out", str(cache)])
    say(f"{checkout.name}: dataset built, {seconds:.1f} s")
    built = files(cache)
    found: Results = {
        "dataset: fingerprint": values({"fingerprint": parse((cache / "manifest.json").read_bytes())["fingerprint"]}),
        "dataset: files": built,
        "dataset: events": _values(events, ("evidence", "log", "finished")),
    }
    for run in RUNS:
        out = checkout.work / run.name
        out.mkdir()
        options = ["--cache", str(cache), "--out", str(out)]
        if run.source is not None:
            options += [SOURCE_OPTION[run.command], str(checkout.work / run.source)]
        events, seconds = _events(checkout, run.name, run.command, run.spec, options)
        say(f"{checkout.name}: {run.name}, {seconds:.1f} s")
        found |= _run_results(run, events, out)
        checkout.note_commit(last_evidence(events))
    found["dataset: files that the runs added"] = {
        name: sha256 for name, sha256 in files(cache).items() if name not in built
    }
    return found


def _run_results(run: Run, events: list[Json], out: Path) -> Results:
    title = f"run {run.name}"
    found = {f"{title}: metrics": _values(events, ("metrics",))} if run.command != "predict" else {}
    return found | {
        f"{title}: evidence": _values(events, ("evidence",)),
        f"{title}: other events": _values(events, OTHER_EVENTS) | _order(events),
        f"{title}: files": files(out),
    }


def _events(checkout: Checkout, name: str, command: str, spec: Json, options: list[str]) -> tuple[list[Json], float]:
    """The events of one `python -m atft COMMAND`, and its seconds. Raises CheckoutError unless it finished."""
    path = checkout.work / f"{name}.json"
    path.write_text(json.dumps(spec))
    began = time.monotonic()
    done = checkout.run([str(checkout.python), "-m", "atft", command, str(path), *options])
    events: list[Json] = [parse(line) for line in done.stdout.splitlines()]
    if not events or events[-1]["type"] != "finished":
        raise CheckoutError(f"{checkout.name}: {name} did not finish: {done.stdout[-1500:].decode()}")
    return events, time.monotonic() - began


def _values(events: Iterable[Json], types: tuple[str, ...]) -> Values:
    """All values of the events of `types`, numbered within each type."""
    found: Values = {}
    for kind in types:
        chosen: list[Any] = [event for event in events if event["type"] == kind]
        if chosen:
            found |= values(chosen, kind)
    return found


def _order(events: Iterable[Json]) -> Values:
    """In which order the events came, by type."""
    left_out = dict(EXCLUDED_EVENTS)
    return values([event["type"] for event in events if event["type"] not in left_out], "order")


def last_evidence(events: Iterable[Json]) -> Json:
    """The body of the last evidence that a run sent."""
    bodies: list[Json] = [event["body"] for event in events if event["type"] == "evidence"]
    return bodies[-1]
