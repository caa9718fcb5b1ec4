"""docs/gallery.md shows every picture that there is; `test_examples.py` draws them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cl_func as cl

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")


def test_the_pictures_of_the_page_are_there_and_small():
    shown = re.findall(r"!\[[^]]+\]\(gallery/(.*?)\)", PAGE)
    assert shown == re.findall(r'savefig\("(.*?)"\)', PAGE)
    assert sorted(shown) == sorted(path.name for path in (DOCS / "gallery").iterdir())
    for name in shown:
        assert (DOCS / "gallery" / name).read_bytes()[:4] == b"\x89PNG"
        assert (DOCS / "gallery" / name).stat().st_size < 60_000, name


@pytest.mark.parametrize("name", [name for name in dir(cl.Runs) if name.startswith("plot_")])
def test_every_picture_of_runs_is_shown(name):
    assert f".{name}(" in PAGE


def test_every_plotting_function_is_named():
    functions = [name for name in cl.plots.__all__ if name[0].islower()]
    assert [name for name in functions if not re.search(rf"\b{name}\b", PAGE)] == []
