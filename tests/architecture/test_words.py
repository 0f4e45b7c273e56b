"""Names that were given up for the field's words (docs/glossary.md) do not come back in the folders that they stood in.

`retired.json` is a list of folder, name and the word in its place. A name is an identifier that a module defines or
imports, or a file's name; the same word elsewhere, in prose or as another attribute, is free.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RETIRED = json.loads(Path(__file__).with_name("retired.json").read_text())
FOLDERS = sorted({entry["folder"] for entry in RETIRED})
JS_NAME = re.compile(r"\b(?:function|class|const|let|var)\s+([A-Za-z_]\w*)")


def names_in(text: str) -> Iterator[str]:
    """What a Python module defines or binds: functions, classes, parameters, variables, attributes set, imports."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(name=name, asname=other):
                yield other or name


def found_in(folder: str) -> dict[str, str]:
    """Every name under the folder, and the file that it was found in last."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / folder).rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if "__pycache__" in name or not path.is_file():
            continue
        found[path.name] = name
        if path.suffix == ".py":
            found |= dict.fromkeys(names_in(path.read_text()), name)
        elif path.suffix == ".js":
            found |= dict.fromkeys(JS_NAME.findall(path.read_text()), name)
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_retired_names_do_not_come_back(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    found = found_in(folder)
    retired = {entry["name"]: entry["now"] for entry in RETIRED if entry["folder"] == folder}
    assert [f"{found[name]}: {name} is now {now}" for name, now in sorted(retired.items()) if name in found] == []


def test_a_retired_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "api"
    folder.mkdir()
    (folder / "lookout.py").write_text("class Lookout:\n    def see(self, who: str):\n        self.places = who\n")
    (folder / "amounts.js").write_text("export const amounts = 1;\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert {"lookout.py", "Lookout", "see", "who", "places", "amounts.js", "amounts"} <= set(found_in("api"))


def test_every_retired_name_has_a_word_in_its_place() -> None:
    assert len(RETIRED) > 100
    assert [entry for entry in RETIRED if not entry["now"].strip() or entry["now"] == entry["name"]] == []
    keys = [(entry["folder"], entry["name"]) for entry in RETIRED]
    assert len(keys) == len(set(keys))
