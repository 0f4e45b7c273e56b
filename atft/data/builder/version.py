"""The build's version: a digest of the source that computes a cache's numbers. It is part of every fingerprint."""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

_DATA: Final = Path(__file__).parents[1]
_COMPUTES: Final = ("features/*.py", "builder/crosssection.py")  # the formulas with their parameters; the normaliser
# Sources that compute the same numbers have the same version. 4 was counted by hand before there was a digest.
_VERSIONS: Final = {"f52ee9dbe965bfffe343ce7cf403a295": 4}
_WITHOUT_EFFECT: Final = frozenset(
    {"annotation", "returns", "ctx", "kind", "type_comment", "type_params", "type_ignores"}
)


@cache
def build_version() -> int | str:
    """Version of what a build computes: other formulas, parameters or normalisation give another one."""
    found = source_digest(path.read_text("utf-8") for pattern in _COMPUTES for path in sorted(_DATA.glob(pattern)))
    return _VERSIONS.get(found, found)


def source_digest(sources: Iterable[str]) -> str:
    """32 hex digits of the statements of Python sources, whatever their layout, comments, docstrings, annotations and
    imports; the same on every version of Python.
    """
    return hashlib.sha256("\n".join(_canonical(ast.parse(source)) for source in sources).encode()).hexdigest()[:32]


def _canonical(node: object) -> str:
    """An AST as text: only fields that have an effect and a value, since versions of Python add fields and differ in
    whether `ast.dump` shows empty ones.
    """
    if isinstance(node, list):
        return f"[{','.join(_canonical(item) for item in node if not _is_ignored(item))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if name not in _WITHOUT_EFFECT)
    kept = ",".join(f"{name}={_canonical(value)}" for name, value in fields if value not in (None, []))
    return f"{type(node).__name__}({kept})"


def _is_ignored(item: object) -> bool:
    """Whether a statement is an import, or a string on its own as a docstring is."""
    return isinstance(item, ast.Import | ast.ImportFrom) or (
        isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)
    )
