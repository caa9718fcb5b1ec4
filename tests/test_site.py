"""The site: it is built without a warning, and every public name is in its reference."""

import importlib.util
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import surface

import cl_func as cl

ROOT = Path(__file__).parents[1]


def docstrings():
    """The module docs/docstrings.py, which is in no package."""
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs" / "docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_has_every_public_name(tmp_path):
    pytest.importorskip("mkdocs")
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    rooms = {name: value for name, value in vars(cl).items() if name in cl.__all__ and isinstance(value, types.ModuleType)}
    text = {f"{page}": (tmp_path / "reference" / f"{page}.html").read_text("utf-8") for page in ["cl", *(f"cl.{r}" for r in rooms)]}
    headings = {page: re.findall(r"<h2[^>]*>\s*(?:<span[^>]*>)?(cl\.[\w.]+)", found) for page, found in text.items()}
    missing = []
    for name in surface.public():
        room = name.partition(".")[0]
        page = f"cl.{room}" if room in rooms else "cl"
        missing += [] if f"cl.{name}" in headings[page] else [name]
    assert missing == []
    assert [page for page, found in text.items() if "<blockquote>" in found] == []  # an example that is not fenced
    assert 'class="gp">&gt;&gt;&gt; ' in text["cl.streams"]
    assert "](docs/" not in (tmp_path / "index.html").read_text("utf-8")


def test_a_docstring_becomes_markdown():
    module = docstrings()
    given = "Twice x.||x: A number,|    at least 0.|y, z: Two more.|Raises ValueError.|Note: as it is.||>>> twice(2)|4||After."
    lines = "Twice x.||- `x`: A number,|    at least 0.|- `y`, `z`: Two more.||Raises ValueError.|Note: as it is.||"
    expected = lines + "```pycon|>>> twice(2)|4|```||After."
    assert module.markdown(given.replace("|", "\n"), {"x", "y", "z"}) == expected.replace("|", "\n")
    assert module.markdown("One line.", set()) == "One line."
    assert module.markdown(">>> 1\n1", set()) == "```pycon\n>>> 1\n1\n```"
    source = ["class A:", "    x: Tensor  # [n] float32, rows", "    y: int = 0", "    def f(self): ...", "    # no: field"]
    assert module.fields(source) == "\n- `x: Tensor`, [n] float32, rows\n- `y: int`"
