"""The Python blocks of docs/data.md run, and the page names every way in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cl_func import data, streams

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, re.S))
def test_block(block):
    exec(compile(block, str(PAGE), "exec"), {})


def test_every_way_in_is_on_the_page():
    assert {name for name in data.__all__ if name not in ("Dataset", "class_orders") and f"cl.data.{name}(" not in TEXT} == set()
    assert {
        name for name in streams.__all__ if name.startswith(("from_", "split_by")) and f"cl.streams.{name}(" not in TEXT
    } == set()
    named = set(re.findall(r"cl\.(data|streams)\.(\w+)\(", TEXT))
    assert all(hasattr({"data": data, "streams": streams}[room], name) for room, name in named)
