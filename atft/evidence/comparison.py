"""Comparison of evidence with what was requested: parts that trainings and predictions have in common."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pydantic import ValidationError

from atft.evidence.models import JobEvidence, Json
from atft.spec.base import Spec, digest

EXTRA_OS_THREADS: Final = 8  # interpreter, sampler, lease and library threads, which do no arithmetic
Difference = tuple[str, object, object]  # field, expected, found
E = TypeVar("E", bound=JobEvidence)


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What the child was given besides its spec: the dataset, a thread limit, its environment variables."""

    fingerprint: str | None
    threads: int
    environment: Mapping[str, str] = field(repr=False)


def find_differences(
    model: type[E],
    spec: Spec,
    given: Given,
    evidence: Json,
    open_fields: frozenset[str],
    facts: Callable[[E], Iterable[Difference]],
) -> list[str]:
    """Every difference, each a sentence that begins with the field; [] if there is none. A missing or an unknown part
    is one too. `open_fields` are those of the spec that the child decides where they are null or auto; `facts` yields
    the differences that only this kind of evidence has.
    """
    try:
        observed = model.model_validate(evidence)
    except ValidationError as error:
        return [f"evidence.{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()]
    requested = spec.model_dump(mode="json")
    found = [
        *unequal_leaves("requested", requested, observed.requested),
        *unequal_leaves("resolved", requested, observed.resolved, open_fields),
        *_common_differences(spec, given, observed),
        *facts(observed),
    ]
    return [f"{field}: asked for {_shown(expected)}, found {_shown(other)}" for field, expected, other in found]


def leaf(body: object, path: str) -> object:
    """The value at a dotted path of nested objects; None where there is none."""
    for key in path.split("."):
        body = body.get(key) if isinstance(body, dict) else None
    return body


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 500 else f"{text[:500]}…"


def unequal(pairs: Mapping[str, tuple[object, object]]) -> Iterator[Difference]:
    yield from ((field, expected, found) for field, (expected, found) in pairs.items() if expected != found)


def unequal_leaves(
    path: str, requested: object, found: object, open_fields: frozenset[str] = frozenset()
) -> Iterator[Difference]:
    """Compare leaf by leaf; an open field that was requested as null or auto may have any value."""
    is_open = path.partition(".")[2] in open_fields
    if isinstance(requested, dict) and isinstance(found, dict):
        for key in sorted(set(requested) | set(found)):
            yield from unequal_leaves(f"{path}.{key}", requested.get(key), found.get(key), open_fields)
    elif is_open and isinstance(requested, list) and isinstance(found, list):
        if not set(requested) <= set(found):  # features: the market's columns are added without being requested
            yield path, requested, found
    elif requested != found and not (is_open and requested in (None, "auto")):
        yield path, requested, found


def _common_differences(spec: Spec, given: Given, observed: JobEvidence) -> Iterator[Difference]:
    threads = observed.threads
    yield from unequal(
        {
            "requested_digest": (spec.digest(), observed.requested_digest),
            "resolved_digest": (digest(observed.resolved), observed.resolved_digest),
            "threads.limit": (given.threads, threads.limit),
            "threads.env": ({name: given.environment.get(name) for name in threads.env}, threads.env),
            "threads.torch_num_threads": (given.threads, threads.torch_num_threads),
            "threads.torch_num_interop_threads": (1, threads.torch_num_interop_threads),
        }
    )
    if not threads.env:
        yield "threads.env", "the variables that limit threads", threads.env
    limit = given.threads + EXTRA_OS_THREADS
    if observed.device == "cpu" and threads.os_threads_peak > limit:
        yield "threads.os_threads_peak", f"at most {limit}", threads.os_threads_peak
