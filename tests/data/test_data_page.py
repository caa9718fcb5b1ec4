"""The Python blocks of docs/data.md run, and the page names every way in."""

from __future__ import annotations

import re

import pages
import pytest

from cl_func import data, streams

PAGE = "data.md"
TEXT = pages.text(PAGE)


@pytest.mark.parametrize("block", pages.blocks(PAGE))
def test_block(block):
    pages.run(PAGE, block)


def test_every_way_in_is_on_the_page():
    assert {name for name in data.__all__ if name not in ("Dataset", "class_orders") and f"cl.data.{name}(" not in TEXT} == set()
    assert {
        name for name in streams.__all__ if name.startswith(("from_", "split_by")) and f"cl.streams.{name}(" not in TEXT
    } == set()
    named = set(re.findall(r"cl\.(data|streams)\.(\w+)\(", TEXT))
    assert all(hasattr({"data": data, "streams": streams}[room], name) for room, name in named)
