"""Writes the reference pages from the code when mkdocs builds: they cannot be older than what they describe."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from atft import events
from atft.spec.data import DatasetSpec, PlantedSpec
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import TrainSpec
from atft.spec.prediction import PredictSpec
from atft.spec.pretrain import PretrainSpec
from atft.spec.study import HpoSpec

OPENAPI = Path(__file__).parents[2] / "tests" / "architecture" / "openapi.json"
Model = type[BaseModel]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, text in {"specs.md": specs(), "http.md": operations(), "events.md": event_types()}.items():
        files.append(File.generated(config, f"reference/{name}", content=text))
    return files


def specs() -> str:
    """Every spec class that a submit takes, each once, with type, default and bounds of its fields."""
    seen: dict[Model, None] = {}
    for top in (TrainSpec, EnsembleSpec, PretrainSpec, HpoSpec, PredictSpec, DatasetSpec, PlantedSpec):
        walk(top, seen)
    return "# Specs\n\nFrozen and closed: an unknown field is refused.\n" + "".join(described(m) for m in seen)


def walk(model: Model, seen: dict[Model, None]) -> None:
    if model in seen:
        return
    seen[model] = None
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            walk(inner, seen)


def models_in(kind: Any) -> Iterator[Model]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from models_in(part)


def described(model: Model) -> str:
    lines = [f"\n## {model.__name__}\n", f"{prose(model.__doc__)}\n", "| field | type | default |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        bounds = ", ".join(text for text in map(bound, field.metadata) if text)
        if field.is_required():
            default = "**required**"
        else:
            default = "made anew" if field.default_factory else f"`{shown(field.default)}`"
        cells = [type_name(field.annotation), f"({bounds})" if bounds else "", field.description or ""]
        lines.append(f"| `{name}` | {' '.join(filter(None, cells))} | {default} |")
    return "\n".join(lines) + "\n"


def prose(text: str | None) -> str:
    return " ".join((text or "").split())


def bound(constraint: object) -> str:
    names = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "max_length": "length ≤", "min_length": "length ≥"}
    return " ".join(f"{sign} {getattr(constraint, n)}" for n, sign in names.items() if hasattr(constraint, n))


def shown(value: object) -> str:
    if isinstance(value, BaseModel):
        return "{}" if value == type(value)() else value.model_dump_json()
    return json.dumps(value, default=list, ensure_ascii=False)


def type_name(kind: Any) -> str:
    """A type as a reader names it; `|` is escaped for a table's cell."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        name = " \\| ".join(f"`{value}`" for value in args)
    elif origin in (Union, UnionType):
        name = " \\| ".join(type_name(part) for part in args)
    elif origin in (tuple, list):
        name = f"list of {type_name(args[0])}"
    elif origin is dict:
        name = f"map to {type_name(args[1])}"
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        name = f"[{kind.__name__}](#{kind.__name__.lower()})"
    elif args:  # Annotated
        name = type_name(args[0])
    else:
        name = "null" if kind is type(None) else getattr(kind, "__name__", str(kind))
    return name


def operations() -> str:
    """Method, path and summary of every operation, from the checked-in OpenAPI document."""
    body = json.loads(OPENAPI.read_text())
    lines = ["# HTTP\n", "`/docs` of a running service has every model, with examples.\n"]
    for path, item in sorted(body["paths"].items()):
        for method, operation in item.items():
            if method not in ("get", "post", "delete", "put", "patch"):
                continue
            lines.append(f"\n## `{method.upper()} {path}`\n\n{operation.get('description') or operation['summary']}\n")
            parameters = operation.get("parameters", [])
            if parameters:
                lines += ["| parameter | in | is |", "|---|---|---|"]
                lines += [f"| `{p['name']}` | {p['in']} | {prose(p.get('description')) or ' '} |" for p in parameters]
            lines.append(f"\nAnswers: {', '.join(f'`{code}`' for code in sorted(operation['responses']))}\n")
    return "\n".join(lines)


def event_types() -> str:
    """What a child says, one JSON object a line, and what a stream carries."""
    kinds = [k for k in vars(events).values() if isinstance(k, type) and issubclass(k, BaseModel)]
    named = [k for k in kinds if k.__module__ == events.__name__]
    return "# Events\n\nWhat the training program says, one JSON object a line.\n" + "".join(map(described, named))
