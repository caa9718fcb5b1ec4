"""The Python blocks of docs/probes.md run, and the page names every probe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cl_func as cl

PAGE = Path(__file__).parents[2] / "docs" / "probes.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, re.S))
def test_block(block):
    exec(compile(block, str(PAGE), "exec"), {})


def test_every_probe_is_on_the_page():
    assert {name for name in cl.probes.__all__ if name[0].islower() and f"cl.probes.{name}" not in TEXT} == set()
