"""python tests/layout.py [FOLDER]: which file of the package imports which, as floors, arrows and cycles.

A file is one floor above the highest of those that it imports when it is loaded. Imports within a function, or for type checkers
only, do not count.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "cl_func"


def modules(package: Path) -> dict[str, Path]:
    """The files of a package by the dotted names of the modules within it; the package itself is ""."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _loaded(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a file is loaded."""
    waiting: list[ast.AST] = [*tree.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


def arrows(package: Path = PACKAGE) -> dict[str, set[str]]:
    """The modules of the package that each module imports: the file itself where the import names it, else its folder."""
    known, found = modules(package), {}
    for name, path in known.items():
        found[name] = set[str]()
        for node in _loaded(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                # A name that is not a module is something in the module.
                names = [one if one.removeprefix(f"{package.name}.") in known else str(node.module) for one in names]
            inside = [one.partition(".")[2] for one in names if one.partition(".")[0] == package.name]
            found[name] |= {one for one in inside if one and one != name}
    return found


def rooms(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows between rooms, which are the folders and the files directly in the package."""
    found: dict[str, set[str]] = {}
    for name, others in graph.items():
        if name:
            room = name.partition(".")[0]
            found.setdefault(room, set()).update(other.partition(".")[0] for other in others)
    return {room: others - {room} for room, others in found.items()}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that all reach each other."""
    reach = {name: _reached(graph, name) for name in graph}
    groups = {tuple(sorted({name, *(o for o in reach[name] if name in reach[o])})) for name in graph if name in reach[name]}
    return [list(group) for group in sorted(groups)]


def _reached(graph: dict[str, set[str]], name: str) -> set[str]:
    seen, waiting = set[str](), [*graph[name]]
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting += graph.get(other, ())
    return seen


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each module of a graph without cycles."""
    found: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in found:
            found[name] = 1 + max((floor(other) for other in graph.get(name, ())), default=-1)
        return found[name]

    for name in graph:
        floor(name)
    return found


def main() -> None:
    """Print the counts and the floors of the rooms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=PACKAGE, help="the package's folder")
    package = parser.parse_args().folder.resolve()
    graph = arrows(package)
    between = rooms(graph)
    found = cycles(graph)
    print(f"{len(graph)} files, {sum(map(len, graph.values()))} arrows, {len(found)} cycles{''.join(f', {c}' for c in found)}")
    print(f"{len(list(package.glob('*.py')))} files in {package.name}/ itself; {len(between)} rooms, {len(cycles(between))} cycles")
    if not found:
        print(f"{1 + max(floors(graph).values())} floors of files")
    for number, group in sorted(_by_floor(between).items(), reverse=True):
        print(f"{number:3}  {', '.join(sorted(group))}")


def _by_floor(between: dict[str, set[str]]) -> dict[int, list[str]]:
    if cycles(between):
        print(f"rooms in a circle: {cycles(between)}")
        return {}
    found: dict[int, list[str]] = {}
    for room, number in floors(between).items():
        found.setdefault(number, []).append(room)
    return found


if __name__ == "__main__":
    main()
