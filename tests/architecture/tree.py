"""`python -m tests.architecture.tree [ROOT]`: measures of the tree that a change of structure is judged by."""

import ast
import configparser
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGES = ("api", "atft", "client", "jobs", "worker")


def modules(root: Path) -> dict[str, Path]:
    """Product modules by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Product modules that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {one if (one := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
    return {one for one in found if one in known and one != name}


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """The longest path in the import graph, which has no circle."""

    @cache
    def below(name: str) -> tuple[str, ...]:
        return (name, *max((below(one) for one in sorted(graph[name])), key=len, default=()))

    return list(max((below(name) for name in sorted(graph)), key=len))


def wide_functions(known: dict[str, Path], most: int = 8) -> int:
    """Functions with more than `most` parameters."""
    count = 0
    for path in known.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count += len([one for one in parameters if one.arg not in ("self", "cls")]) > most
    return count


def fixed_sleeps(root: Path) -> Iterator[str]:
    """Sleeps of a fixed time in tests that stand in no loop: nothing is polled, time alone is waited for."""
    for path in sorted((root / "tests").rglob("*.py")):
        if "programs" in path.parts:  # a slow program is what they simulate
            continue
        tree = ast.parse(path.read_text())
        loops = (ast.While, ast.For, ast.AsyncFor)
        polled = {id(one) for loop in ast.walk(tree) if isinstance(loop, loops) for one in ast.walk(loop)}
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=function, args=[ast.Constant(value=seconds), *_]) if seconds:
                    if ast.unparse(function).endswith("sleep") and id(node) not in polled:
                        yield f"{path.relative_to(root)}:{node.lineno}"


def untested(root: Path, known: dict[str, Path]) -> list[str]:
    """Product modules that no test module imports."""
    tested: set[str] = set()
    for path in (root / "tests").rglob("*.py"):
        tested |= imports("", path, known)
    return sorted(name for name, path in known.items() if path.name[0] != "_" and name not in tested)


def main(root: Path) -> None:
    known = modules(root)
    by_folder: dict[str, int] = defaultdict(int)
    for path in known.values():
        if path.name != "__init__.py":
            by_folder[str(path.parent.relative_to(root))] += 1
    contracts = configparser.ConfigParser()
    contracts.read(root / ".importlinter")
    chain = longest_chain({name: imports(name, path, known) for name, path in known.items()})
    sleeps = list(fixed_sleeps(root))
    rows = {
        "modules (without __init__)": sum(by_folder.values()),
        "folders": len(by_folder),
        "most modules in a folder": ", ".join(f"{name} {n}" for name, n in Counter(by_folder).most_common(5)),
        "contracts": len([one for one in contracts.sections() if ":contract:" in one]),
        "lines of .importlinter": len((root / ".importlinter").read_text().splitlines()),
        "longest chain of imports": f"{len(chain)}: {' > '.join(chain)}",
        "functions with more than 8 parameters": wide_functions(known),
        "lines of the OpenAPI snapshot": len((root / "tests/architecture/openapi.json").read_text().splitlines()),
        "modules that no test imports": f"{len(bare := untested(root, known))}: {', '.join(bare)}",
        "fixed sleeps in tests": f"{len(sleeps)}: {', '.join(sleeps)}",
    }
    for name, value in rows.items():
        sys.stdout.write(f"{name}: {value}\n")
    for name, count in sorted(by_folder.items()):
        sys.stdout.write(f"  {count:3d} {name}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2])
