"""The Python blocks of docs/probes.md run, and the page names every probe."""

from __future__ import annotations

import pages
import pytest

import cl_func as cl

PAGE = "probes.md"
TEXT = pages.text(PAGE)


@pytest.mark.parametrize("block", pages.blocks(PAGE))
def test_block(block):
    pages.run(PAGE, block)


def test_every_probe_is_on_the_page():
    assert {name for name in cl.probes.__all__ if name[0].islower() and f"cl.probes.{name}" not in TEXT} == set()
