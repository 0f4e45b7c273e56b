"""Answers as flat values, the list of what is not compared, and the comparison of two sides."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Values = dict[str, str]  # path of a value -> its JSON text
Results = dict[str, Values]  # name of a comparison -> what one side gave

EXCLUDED: Final = (  # (paths that are left out, why)
    (r"\.(time|child_seq)$", "events: when each was sent, and its number, which counts the progress events"),
    (r"\.pid$", "the `started` event: the process id"),
    (r"\.(time|system)(\.\d+)?/\w+", "metrics: seconds, memory and processor use"),
    (r"^evidence(\[\d+\]\.body)?\.(versions|host|memory)\b", "evidence: library versions, host name, memory"),
    (r"^evidence(\[\d+\]\.body)?\.git\.dirty$", "evidence: uncommitted changes of the checkout"),
    (r"\.os_threads_peak$", "evidence: the largest number of threads seen by a sampler"),
    (r"^checkpointed\[\d+\]\.sha256$", "a checkpoint's SHA-256 is that of its manifest, which holds elapsed seconds"),
    (r"\.elapsed_seconds$", "a checkpoint's manifest: elapsed seconds"),
    (r"\.(id|job_id)$", "HTTP: ids, which are made at random"),
    (r"\.(created|started|finished)_at$", "HTTP: times"),
)
EXCLUDED_EVENTS: Final = (("progress", "events sent a few times a second; all they hold is time and place"),)
EXCLUDED_FILES: Final = (("timeline.json", "a study's plot of when its trials ran"),)
BY_FIELD: Final = (  # files whose fields are compared, less the excluded ones, instead of their SHA-256
    ("evidence.json", "it holds the excluded fields of the evidence"),
    ("manifest.json", "a checkpoint's holds elapsed seconds"),
)
MASKED: Final = (  # (path, part of its value that is masked before it is compared, why)
    (r"\.git\.sha$", r"[0-9a-f]{40}", "evidence: the commit; that there is one is compared"),
    (r"^log\[\d+\]\.message$", r"\d+\.\d+ s\b", "log messages: measured seconds"),
)


class Number(str):
    """A JSON number: an integer as it was written, a float by the shortest text of its bits (1e-8 is 1e-08)."""

    __slots__ = ()


def parse(text: str | bytes) -> Any:
    """The JSON value of `text`, its numbers as Number."""
    return json.loads(text, parse_float=lambda found: Number(float(found)), parse_int=Number, parse_constant=Number)


def values(body: object, path: str = "") -> Values:
    """Each value in `body` by its path, without those that EXCLUDED names."""
    excluded = re.compile("|".join(f"(?:{pattern})" for pattern, _ in EXCLUDED))
    return {name: _masked(name, text) for name, text in _leaves(body, path) if not excluded.search(name)}


def _leaves(body: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(body, Mapping) and body:
        for key, value in body.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(body, list) and body:
        for number, value in enumerate(body):
            yield from _leaves(value, f"{path}[{number}]")
    else:
        yield path, str(body) if isinstance(body, Number) else json.dumps(body)


def _masked(path: str, text: str) -> str:
    for where, part, _ in MASKED:
        if re.search(where, path):
            text = re.sub(part, "…", text)
    return text


def files(folder: Path) -> Values:
    """The SHA-256 of each file under `folder` by its relative path; BY_FIELD's by field."""
    found: Values = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.name in dict(EXCLUDED_FILES):
            continue
        if path.name == "evidence.json":
            inner = values(parse(path.read_bytes()), "evidence")
            found |= {f"{name}: {key}": text for key, text in inner.items()}
        elif path.name == "manifest.json" and path.parent.parent.name == "checkpoints":
            found |= values(parse(path.read_bytes()), f"{name}: manifest")
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One value that is not the same; None where a side lacks it."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One compared thing; `count` is the number of paths on either side."""

    name: str
    count: int
    differences: list[Difference]

    @property
    def same(self) -> bool:
        """Whether there was something to compare and all of it is equal."""
        return self.count > 0 and not self.differences


def compare(before: Results, after: Results) -> list[Comparison]:
    """A comparison of each name that either side has, in their order."""
    comparisons = []
    for name in dict.fromkeys([*before, *after]):
        a, b = before.get(name, {}), after.get(name, {})
        paths = list(dict.fromkeys([*a, *b]))
        pairs = [Difference(path=path, before=a.get(path), after=b.get(path)) for path in paths]
        comparisons.append(
            Comparison(name=name, count=len(paths), differences=[one for one in pairs if one.before != one.after])
        )
    return comparisons
