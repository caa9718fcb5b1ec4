"""The house: where things stand, and that imports point down."""

from __future__ import annotations

import importlib
import re
import types
from pathlib import Path

import layout
import pages

GRAPH = layout.arrows()
ROOMS = layout.rooms(GRAPH)
PRIVATE = re.compile(r"torch\._\w|from torch.* import _\w|\._cdata|fx\.experimental|_python_dispatch|utils\._pytree")


def test_no_circle_of_files_nor_of_rooms():
    assert layout.cycles(GRAPH) == []
    assert layout.cycles(ROOMS) == []
    assert layout.cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_the_ground_and_the_storage_know_nothing_of_what_stands_on_them():
    assert ROOMS["checks"] == {"tree"}
    assert ROOMS["storage"] & {"sweeps", "plots", "strategies", "testing"} == set()
    assert ROOMS["core"] & {"storage", "transforms", "compiler"} == set()


def test_few_files_stand_in_the_package_itself():
    assert len(list(layout.PACKAGE.glob("*.py"))) <= 12


def test_private_api_of_torch_is_in_one_folder():
    found = [
        f"{path.relative_to(layout.PACKAGE)}:{number}: {line.strip()}"
        for path in layout.PACKAGE.rglob("*.py")
        if path.parent.name != "torch_private"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PRIVATE.search(line) and not re.search(r"torch\.__(version|file)__|`", line)
    ]
    assert found == []


def test_every_warning_is_at_a_line_of_the_user():
    warning = re.compile(r"(?<!user_)warnings\.warn\(")
    found = [path.name for path in layout.PACKAGE.rglob("*.py") if warning.search(path.read_text("utf-8"))]
    assert found == ["user_warnings.py"]


def test_no_function_hides_a_module_of_its_name():
    # Where a file is the one thing that it makes, such as strategies/er.py, the name is the function.
    named = {"models", "optim", "plasticity", "strategies", "streams"}
    hidden = []
    for name, path in layout.modules(layout.PACKAGE).items():
        room, _, last = name.rpartition(".")
        if name and room not in named:
            holder = importlib.import_module(f"cl_func.{room}" if room else "cl_func")
            if not isinstance(getattr(holder, last, types), types.ModuleType):
                hidden.append(str(path))
    assert hidden == []


def test_the_tests_stand_where_the_code_does():
    rooms = {path.name for path in layout.PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    folders = {path.name for path in Path(__file__).parent.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders <= rooms | {"typed"}


def test_benchmarks_stand_in_folders():
    folder = Path(__file__).parents[1] / "benchmarks"
    shared = {"__init__", "__main__", "machine", "methods", "page", "process", "protocol", "results", "works"}
    assert {path.stem for path in folder.glob("*.py")} == shared
    assert {path.name for path in folder.iterdir() if path.is_dir()} - {"__pycache__"} == {"accuracy", "peers", "soak", "speed"}


def test_commands_that_are_written_down_exist():
    root = Path(__file__).parents[1]
    folders = ("benchmarks", "cl_func", "docs", "examples", "tests")
    paths = [root / "README.md", root / "CHANGELOG.md", root / "Makefile"]
    paths += [path for name in folders for path in (root / name).rglob("*") if path.suffix in {".json", ".md", ".py"}]
    named = {name for path in paths for name in re.findall(r"-m (benchmarks[.a-z_]*\b)(?!\.)", path.read_text(encoding="utf-8"))}
    assert len(named) > 10
    for name in named:
        path = root.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_every_page_with_python_is_run():
    """Its blocks are the business of a test, which names the page."""
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    with_blocks = [path.name for path in pages.DOCS.rglob("*.md") if "```python" in path.read_text(encoding="utf-8")]
    assert len(with_blocks) > 9
    assert [name for name in with_blocks if f'"{name}"' not in tests] == []
